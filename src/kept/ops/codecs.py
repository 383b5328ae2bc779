"""How numbers are stored: what a cache keeps of a key or value, and what attention reads of it.

A codec turns rows (..., D) into buffers that share all dimensions but the last, and back. What is
written is final: nothing is ever coded again, so a token's bits depend on its own numbers alone.

    name        buffers                                bytes a head at D = 64
    float32     numbers (..., D)                       256
    bfloat16    numbers (..., D)                       128, float16 the same
    int8        codes (..., D), scales (..., 1)         66
    int4        codes (..., ceil(D/2)), scales (..., ceil(D/32))        36

    int4, D = 5      byte 0      byte 1      byte 2          one scale to 32 elements
                  x1+8 | x0+8  x3+8 | x2+8    8 | x4+8       (high nibble | low nibble)

`int8` has one scale a token and head, `int4` one to 32 elements. A scale is the least bfloat16 not
below amax / limit, so that codes never exceed their limit of 127 or 7 and are rounded half to
even; a number decodes as code * scale in fp32, at most half a scale from where it was. An entry
whose bytes are all zero decodes to zeros. Not finite: a row (int8) or group (int4) that holds an
infinity or a NaN, whole or after the cast to fp32, gets the scale NaN and decodes to NaN, as it
would have poisoned the scores without a codec; no finite number ever comes of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kept.errors import OptionError

INT8_LIMIT = 127
INT4_LIMIT = 7
INT4_GROUP = 32  # elements that share a scale
INT4_ZERO = 8  # what is added to a code to make a nibble


@dataclass(frozen=True, slots=True)
class Part:
    """One of a codec's buffers: its dtype, and how many numbers it has for a token and head."""

    name: str
    dtype: torch.dtype
    width: int


@dataclass(frozen=True, slots=True)
class Codec(ABC):
    """A way to store numbers. dtype: what `decode` returns."""

    name: str
    dtype: torch.dtype

    @abstractmethod
    def parts(self, head_dim: int) -> tuple[Part, ...]:
        """The buffers that hold heads of D numbers, in the order that the other methods use."""

    @abstractmethod
    def encode(self, x: Tensor) -> Sequence[Tensor]:
        """One tensor for each part, (..., width) of x (..., D); a copy into the buffer may cast."""

    @abstractmethod
    def decode(self, buffers: Sequence[Tensor], head_dim: int) -> Tensor:
        """The numbers (..., D) that buffers (..., width) stand for."""

    def num_bytes(self, head_dim: int) -> int:
        """Bytes that D numbers of one head take."""
        return sum(part.width * part.dtype.itemsize for part in self.parts(head_dim))


@dataclass(frozen=True, slots=True)
class FloatCodec(Codec):
    """Numbers as they are, in a dtype; what does not fit it becomes what torch's cast makes."""

    def parts(self, head_dim: int) -> tuple[Part, ...]:
        """See `Codec.parts`."""
        return (Part("numbers", self.dtype, head_dim),)

    def encode(self, x: Tensor) -> Sequence[Tensor]:
        """See `Codec.encode`; no copy, since the one into the buffer casts."""
        return (x,)

    def decode(self, buffers: Sequence[Tensor], head_dim: int) -> Tensor:
        """See `Codec.decode`; no copy."""
        return buffers[0]


@dataclass(frozen=True, slots=True)
class Int8Codec(Codec):
    """A signed byte an element, one scale a token and head."""

    def parts(self, head_dim: int) -> tuple[Part, ...]:
        """See `Codec.parts`."""
        return Part("codes", torch.int8, head_dim), Part("scales", torch.bfloat16, 1)

    def encode(self, x: Tensor) -> Sequence[Tensor]:
        """See `Codec.encode`."""
        wide = x.float()
        scales = _scales(wide, INT8_LIMIT)
        return _codes(wide, scales, INT8_LIMIT).to(torch.int8), scales

    def decode(self, buffers: Sequence[Tensor], head_dim: int) -> Tensor:
        """See `Codec.decode`; fp32."""
        codes, scales = buffers
        return codes.float().mul_(scales.float())


@dataclass(frozen=True, slots=True)
class Int4Codec(Codec):
    """Two elements a byte, one scale to 32 elements."""

    def parts(self, head_dim: int) -> tuple[Part, ...]:
        """See `Codec.parts`."""
        return (
            Part("codes", torch.uint8, -(-head_dim // 2)),
            Part("scales", torch.bfloat16, -(-head_dim // INT4_GROUP)),
        )

    def encode(self, x: Tensor) -> Sequence[Tensor]:
        """See `Codec.encode`."""
        width = x.shape[-1]
        missing = -width % INT4_GROUP  # filled up with zeros, whose nibble is INT4_ZERO
        groups = F.pad(x.float(), (0, missing)).unflatten(-1, (-1, INT4_GROUP))
        scales = _scales(groups, INT4_LIMIT)
        nibbles = _codes(groups, scales, INT4_LIMIT).add_(INT4_ZERO).to(torch.uint8).flatten(-2)
        low, high = nibbles[..., 0:width:2], nibbles[..., 1 : width + 1 : 2]
        return low | high << 4, scales.squeeze(-1)

    def decode(self, buffers: Sequence[Tensor], head_dim: int) -> Tensor:
        """See `Codec.decode`; fp32."""
        codes, scales = buffers
        nibbles = torch.stack((codes & 0xF, codes >> 4), dim=-1).flatten(-2)[..., :head_dim]
        wide = scales.float()[..., None].expand(*scales.shape, INT4_GROUP).flatten(-2)
        return nibbles.float().sub_(INT4_ZERO).mul_(wide[..., :head_dim])


def _scales(x: Tensor, limit: int) -> Tensor:
    """bf16 (..., 1) of fp32 x (..., D): the least not below amax / limit; NaN if not finite."""
    amax = x.abs().amax(-1, keepdim=True)
    # By a tensor: on a GPU torch multiplies by a number's reciprocal, which is not the quotient.
    quotient = amax / torch.full_like(amax, limit)
    quotient = torch.where(amax.isfinite(), quotient, torch.nan)
    # A bfloat16 is the upper half of an fp32; a carry out of the lower half is the round-up.
    return ((quotient.view(torch.int32) + 0xFFFF) >> 16).to(torch.int16).view(torch.bfloat16)


def _codes(x: Tensor, scales: Tensor, limit: int) -> Tensor:
    """Whole numbers in fp32 (..., D); 0 where the scale is 0 or NaN."""
    wide = scales.float()
    # Zero scales belong to zeros, and to numbers so small that their scale underflowed.
    quotient = x / torch.where(wide == 0, 1.0, wide)
    return quotient.round_().clamp_(-limit, limit).nan_to_num_(0.0)


CODECS: Mapping[str, Codec] = {
    codec.name: codec
    for codec in (
        FloatCodec("float64", torch.float64),
        FloatCodec("float32", torch.float32),
        FloatCodec("bfloat16", torch.bfloat16),
        FloatCodec("float16", torch.float16),
        Int8Codec("int8", torch.float32),
        Int4Codec("int4", torch.float32),
    )
}


def find_codec(which: str | torch.dtype) -> Codec:
    """The codec of a name, or the one that stores numbers in a torch dtype of real numbers.

    Raises OptionError for one that does not exist.
    """
    if isinstance(which, torch.dtype):
        floats = (codec for codec in CODECS.values() if isinstance(codec, FloatCodec))
        found: Codec | None = next((codec for codec in floats if codec.dtype == which), None)
    else:
        found = CODECS.get(which) if isinstance(which, str) else None
    if found is None:
        raise OptionError(
            f"keys and values cannot be stored as {which!r}; there are {', '.join(CODECS)}"
        )
    return found
