"""Arithmetic: one face per operation, and the views attention reads."""

from kept.ops.backend import backend, isa, num_threads, runs_natively, use_threads, why_reference
from kept.ops.codecs import CODECS, Codec, Part, find_codec
from kept.ops.faces import (
    Rope,
    activate,
    attend,
    embedding,
    gated,
    layer_norm,
    linear,
    rms_norm,
    split_heads,
)
from kept.ops.packed import PackedMatrix, pack_int4, pack_int8, pack_matrix
from kept.ops.program import Program
from kept.ops.reference import ACTIVATIONS, attend_with_weights, rotary
from kept.ops.spec import AttentionSpec, HeadSpec
from kept.ops.step_buffers import LentBuffers, Placement, RopeTables, StepBuffers
from kept.ops.views import ContiguousView, Group, KVView, PackedView, RingView, Span, StoredView

__all__ = [
    "ACTIVATIONS",
    "CODECS",
    "AttentionSpec",
    "Codec",
    "ContiguousView",
    "Group",
    "HeadSpec",
    "KVView",
    "LentBuffers",
    "PackedMatrix",
    "PackedView",
    "Part",
    "Placement",
    "Program",
    "RingView",
    "Rope",
    "RopeTables",
    "Span",
    "StepBuffers",
    "StoredView",
    "activate",
    "attend",
    "attend_with_weights",
    "backend",
    "embedding",
    "find_codec",
    "gated",
    "isa",
    "layer_norm",
    "linear",
    "num_threads",
    "pack_int4",
    "pack_int8",
    "pack_matrix",
    "rms_norm",
    "rotary",
    "runs_natively",
    "split_heads",
    "use_threads",
    "why_reference",
]
