"""A layer's attention as the native kernels take it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kept.ops.kv_codec import KVCodec
from kept.ops.spec import AttentionSpec, HeadSpec

if TYPE_CHECKING:
    from kept import _native

# Beside one of these, attention computes in fp32.
_FLOATS = {"float32", "float16"}


def computes_in_floats(codec: KVCodec) -> bool:
    """Whether attention over keys and values of this codec takes its queries in fp32."""
    return bool(_FLOATS.intersection(codec.pair))


def native_shape(heads: HeadSpec, spec: AttentionSpec) -> _native.AttentionShape:
    """A layer's attention as the kernels take it."""
    from kept import _native

    return _native.attention_shape(
        heads.num_heads,
        heads.num_kv_heads,
        heads.head_dim,
        spec.scale,
        spec.causal,
        or_none(spec.window),
        spec.sinks,
        spec.softcap or 0.0,
        heads.value_width,
        heads.in_keys,
    )


def or_none(window: int | None) -> int:
    """A window, or -1 where there is none."""
    return -1 if window is None else window
