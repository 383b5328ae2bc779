"""How a cache stores keys and values: a codec for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from kept.errors import OptionError
from kept.ops.codecs import KEY_CODECS, VALUE_CODECS, Codec, FloatCodec

KVDtype = str | tuple[str, str]


@dataclass(frozen=True, slots=True)
class KVCodec:
    """The codecs of keys and of values, and what the two are called together."""

    name: str
    keys: Codec
    values: Codec

    @property
    def dtype(self) -> torch.dtype:
        """What keys and values come back in: the wider of what their codecs decode to."""
        return torch.promote_types(self.keys.dtype, self.values.dtype)

    @property
    def pair(self) -> tuple[str, str]:
        """The names of both codecs, by which `find_kv_codec` finds it again."""
        return self.keys.name, self.values.name

    def num_bytes(self, head_dim: int, value_dim: int | None = None) -> int:
        """Bytes that a key of D numbers and a value of `value_dim`, by default D, take, scales
        included."""
        width = head_dim if value_dim is None else value_dim
        return self.keys.num_bytes(head_dim) + self.values.num_bytes(width)


_NAMED = {**{name: (name, name) for name in VALUE_CODECS}, "k8v4": ("int8", "int4")}
_ORDER = (*(name for name in VALUE_CODECS if name != "int4"), "k8v4", "int4")

KV_CODECS: Mapping[str, KVCodec] = {
    name: KVCodec(name, KEY_CODECS[_NAMED[name][0]], VALUE_CODECS[_NAMED[name][1]])
    for name in _ORDER
}


def find_kv_codec(which: KVDtype | torch.dtype) -> KVCodec:
    """The codecs of a name, of a pair (keys, values) of names of single codecs, or of a torch dtype
    of real numbers, which both are then stored in.

    Raises OptionError for what does not exist.
    """
    if isinstance(which, torch.dtype):
        floats = (codec for codec in VALUE_CODECS.values() if isinstance(codec, FloatCodec))
        name = next((codec.name for codec in floats if codec.dtype == which), None)
        if name is not None:
            return KV_CODECS[name]
    elif isinstance(which, str) and which in KV_CODECS:
        return KV_CODECS[which]
    elif isinstance(which, tuple | list) and len(which) == 2:
        pair = tuple(which)
        if all(isinstance(name, str) and name in VALUE_CODECS for name in pair):
            return next((c for c in KV_CODECS.values() if c.pair == pair), _unnamed(*pair))
    raise OptionError(
        f"keys and values cannot be stored as {which!r}; there are {', '.join(KV_CODECS)}, and "
        f"pairs (keys, values) of {', '.join(VALUE_CODECS)}"
    )


def _unnamed(keys: str, values: str) -> KVCodec:
    return KVCodec(f"{keys}+{values}", KEY_CODECS[keys], VALUE_CODECS[values])
