"""Arithmetic: one face per operation, and the views attention reads."""

from kept.ops.adapters import AdaptedRows, Adapters, LowRank
from kept.ops.attention import attend_stored
from kept.ops.backend import (
    MAX_REACH,
    backend,
    isa,
    num_threads,
    one_torch_thread,
    runs_natively,
    use_threads,
    why_reference,
)
from kept.ops.bias import Bias, LinearBias, RelativeBias
from kept.ops.codecs import KEY_CODECS, VALUE_CODECS, Codec, Part
from kept.ops.cross_view import CrossView, InputBuffers
from kept.ops.encoding import encode_heads
from kept.ops.faces import (
    Rope,
    activate,
    attend,
    embedding,
    experts,
    gated,
    layer_norm,
    linear,
    norm_parts,
    rms_norm,
    soft_cap,
    split_heads,
    split_keys,
    split_queries,
)
from kept.ops.hadamard import rotate_heads
from kept.ops.kv_codec import KV_CODECS, KVCodec, KVDtype, find_kv_codec
from kept.ops.mixture import Expert, Router, Routing
from kept.ops.packed import PackedMatrix, pack_int4, pack_int8, pack_matrix
from kept.ops.plain import exact_products, plain_torch
from kept.ops.program import Program
from kept.ops.reference import ACTIVATIONS, CLAMPED_SWIGLU, attend_with_weights, rotary
from kept.ops.spec import AttentionSpec, HeadSpec
from kept.ops.step_buffers import (
    LentBuffers,
    LentInputs,
    Placement,
    RopeTables,
    StepBuffers,
    lend_input,
    one_block_each,
    table_of,
)
from kept.ops.views import (
    BlockView,
    ContiguousView,
    Group,
    KVView,
    PackedView,
    Span,
    StoredView,
)

__all__ = [
    "ACTIVATIONS",
    "CLAMPED_SWIGLU",
    "KEY_CODECS",
    "KV_CODECS",
    "MAX_REACH",
    "VALUE_CODECS",
    "AdaptedRows",
    "Adapters",
    "AttentionSpec",
    "Bias",
    "BlockView",
    "Codec",
    "ContiguousView",
    "CrossView",
    "Expert",
    "Group",
    "HeadSpec",
    "InputBuffers",
    "KVCodec",
    "KVDtype",
    "KVView",
    "LentBuffers",
    "LentInputs",
    "LinearBias",
    "LowRank",
    "PackedMatrix",
    "PackedView",
    "Part",
    "Placement",
    "Program",
    "RelativeBias",
    "Rope",
    "RopeTables",
    "Router",
    "Routing",
    "Span",
    "StepBuffers",
    "StoredView",
    "activate",
    "attend",
    "attend_stored",
    "attend_with_weights",
    "backend",
    "embedding",
    "encode_heads",
    "exact_products",
    "experts",
    "find_kv_codec",
    "gated",
    "isa",
    "layer_norm",
    "lend_input",
    "linear",
    "norm_parts",
    "num_threads",
    "one_block_each",
    "one_torch_thread",
    "pack_int4",
    "pack_int8",
    "pack_matrix",
    "plain_torch",
    "rms_norm",
    "rotary",
    "rotate_heads",
    "runs_natively",
    "soft_cap",
    "split_heads",
    "split_keys",
    "split_queries",
    "table_of",
    "use_threads",
    "why_reference",
]
