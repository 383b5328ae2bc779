"""Arithmetic: one face per operation, and the views attention reads."""

from kept.ops.backend import backend
from kept.ops.codecs import CODECS, Codec, Part, find_codec
from kept.ops.reference import (
    ACTIVATIONS,
    activate,
    attend,
    attend_with_weights,
    gated,
    layer_norm,
    linear,
    rms_norm,
    rotary,
)
from kept.ops.spec import AttentionSpec
from kept.ops.views import ContiguousView, Group, KVView, PackedView, RingView, Span

__all__ = [
    "ACTIVATIONS",
    "CODECS",
    "AttentionSpec",
    "Codec",
    "ContiguousView",
    "Group",
    "KVView",
    "PackedView",
    "Part",
    "RingView",
    "Span",
    "activate",
    "attend",
    "attend_with_weights",
    "backend",
    "find_codec",
    "gated",
    "layer_norm",
    "linear",
    "rms_norm",
    "rotary",
]
