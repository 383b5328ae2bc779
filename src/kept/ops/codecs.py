"""How numbers are stored: what a cache keeps of a key or value, and what attention reads of it.

A codec is of keys or of values; `kv_codec.py` joins two. It turns rows (..., D) into buffers that
share all dimensions but the last, and back. What is written is final: nothing is ever coded again,
so a token's bits depend on its own numbers alone.

    name        buffers                                bytes a head at D = 64
    float32     numbers (..., D)                       256
    bfloat16    numbers (..., D)                       128, float16 the same
    int8        codes (..., D), scales (..., 1)         66
    int4        codes (..., ceil(D/2)), scales (..., ceil(D/32))        36

    int4, D = 5      byte 0      byte 1      byte 2          one scale to 32 elements
                  x1+8 | x0+8  x3+8 | x2+8    8 | x4+8       (high nibble | low nibble)

A number decodes as code * scale in fp32; codes are rounded half to even. `int8` has one scale a
token and head, the least bfloat16 not below amax / 127, so that codes never exceed 127 and a number
comes back at most half a scale from where it was. `int4` has one scale to 32 elements and codes of
-8 to 7: the element farthest from zero, the positive one of two, becomes -8, so a scale is that
element over -8, rounded to the nearest bfloat16, and of either sign. What is as far on the other
side is held at 7, a whole scale short. An entry whose bytes are all zero decodes to zeros. Not
finite: a row (int8) or group (int4) that holds an infinity or a NaN, whole or after the cast to
fp32, gets the scale NaN and decodes to NaN, as it would have poisoned the scores without a codec;
no finite number ever comes of it.

Keys have a few elements that are large in every token (Liu et al. 2024, KIVI), and would take the
scale of their group. So `int4` of keys is of a head rotated by `hadamard.py`, which spreads them
(Ashkboos et al. 2024, QuaRot). Scores do not change if queries are rotated alike, so kernels attend
the codes as they are; `decode` rotates back. What is not finite takes its whole block with it, and
so do numbers whose sum overflows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kept.ops.hadamard import rotate_heads

INT8_LIMIT = 127
INT4_LOW, INT4_HIGH = -8, 7
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

    @property
    def is_coded(self) -> bool:
        """Whether numbers become codes with a scale, which round them."""
        return True

    def parts(self, head_dim: int) -> tuple[Part, ...]:
        """The buffers that hold heads of D numbers, in the order that the other methods use; none
        where D is 0."""
        return self._parts(head_dim) if head_dim else ()

    @abstractmethod
    def _parts(self, head_dim: int) -> tuple[Part, ...]:
        """See `parts`; D of at least 1."""

    @abstractmethod
    def encode(self, x: Tensor) -> Sequence[Tensor]:
        """One tensor for each part, (..., width) of x (..., D); a copy into the buffer may cast."""

    @abstractmethod
    def read(self, buffers: Sequence[Tensor], head_dim: int) -> Tensor:
        """The numbers (..., D) that buffers (..., width) stand for, rotated if they are."""

    def turned(self, x: Tensor) -> Tensor:
        """x (..., D) rotated as what is stored; and back, as it is its own inverse."""
        return x

    def decode(self, buffers: Sequence[Tensor], head_dim: int) -> Tensor:
        """The numbers (..., D) that were stored, as far as the codec keeps them."""
        return self.turned(self.read(buffers, head_dim))

    def num_bytes(self, head_dim: int) -> int:
        """Bytes that D numbers of one head take."""
        return sum(part.width * part.dtype.itemsize for part in self.parts(head_dim))


@dataclass(frozen=True, slots=True)
class FloatCodec(Codec):
    """Numbers as they are, in a dtype; what does not fit it becomes what torch's cast makes."""

    @property
    def is_coded(self) -> bool:
        """See `Codec.is_coded`."""
        return False

    def _parts(self, head_dim: int) -> tuple[Part, ...]:
        """See `Codec.parts`."""
        return (Part("numbers", self.dtype, head_dim),)

    def encode(self, x: Tensor) -> Sequence[Tensor]:
        """See `Codec.encode`; no copy, since the one into the buffer casts."""
        return (x,)

    def read(self, buffers: Sequence[Tensor], head_dim: int) -> Tensor:
        """See `Codec.read`; no copy."""
        return buffers[0]


@dataclass(frozen=True, slots=True)
class Int8Codec(Codec):
    """A signed byte an element, one scale a token and head."""

    def _parts(self, head_dim: int) -> tuple[Part, ...]:
        """See `Codec.parts`."""
        return Part("codes", torch.int8, head_dim), Part("scales", torch.bfloat16, 1)

    def encode(self, x: Tensor) -> Sequence[Tensor]:
        """See `Codec.encode`."""
        wide = x.float()
        scales = _scales(wide, INT8_LIMIT)
        return _codes(wide, scales, -INT8_LIMIT, INT8_LIMIT).to(torch.int8), scales

    def read(self, buffers: Sequence[Tensor], head_dim: int) -> Tensor:
        """See `Codec.read`; fp32."""
        codes, scales = buffers
        return codes.float().mul_(scales.float())


@dataclass(frozen=True, slots=True)
class Int4Codec(Codec):
    """Two elements a byte, one scale to 32 elements. rotated: the codes are of rotated heads."""

    rotated: bool = False

    def _parts(self, head_dim: int) -> tuple[Part, ...]:
        """See `Codec.parts`."""
        return (
            Part("codes", torch.uint8, -(-head_dim // 2)),
            Part("scales", torch.bfloat16, -(-head_dim // INT4_GROUP)),
        )

    def encode(self, x: Tensor) -> Sequence[Tensor]:
        """See `Codec.encode`."""
        width = x.shape[-1]
        missing = -width % INT4_GROUP  # filled up with zeros, whose nibble is INT4_ZERO
        groups = F.pad(self.turned(x.float()), (0, missing)).unflatten(-1, (-1, INT4_GROUP))
        scales = _signed_scales(groups)
        codes = _codes(groups, scales, INT4_LOW, INT4_HIGH)
        nibbles = codes.add_(INT4_ZERO).to(torch.uint8).flatten(-2)
        low, high = nibbles[..., 0:width:2], nibbles[..., 1 : width + 1 : 2]
        return low | high << 4, scales.squeeze(-1)

    def read(self, buffers: Sequence[Tensor], head_dim: int) -> Tensor:
        """See `Codec.read`; fp32."""
        codes, scales = buffers
        nibbles = torch.stack((codes & 0xF, codes >> 4), dim=-1).flatten(-2)[..., :head_dim]
        wide = scales.float()[..., None].expand(*scales.shape, INT4_GROUP).flatten(-2)
        return nibbles.float().sub_(INT4_ZERO).mul_(wide[..., :head_dim])

    def turned(self, x: Tensor) -> Tensor:
        """See `Codec.turned`."""
        return rotate_heads(x) if self.rotated else x


def _scales(x: Tensor, limit: int) -> Tensor:
    """bf16 (..., 1) of fp32 x (..., D): the least not below amax / limit; NaN if not finite."""
    amax = x.abs().amax(-1, keepdim=True)
    # By a tensor: on a GPU torch multiplies by a number's reciprocal, which is not the quotient.
    quotient = amax / torch.full_like(amax, limit)
    quotient = torch.where(amax.isfinite(), quotient, torch.nan)
    # A bfloat16 is the upper half of an fp32; a carry out of the lower half is the round-up.
    return ((quotient.view(torch.int32) + 0xFFFF) >> 16).to(torch.int16).view(torch.bfloat16)


def _signed_scales(x: Tensor) -> Tensor:
    """bf16 (..., 1) of fp32 x (..., D): its element farthest from zero over INT4_LOW; NaN if not
    finite."""
    high, low = x.amax(-1, keepdim=True), x.amin(-1, keepdim=True)
    quotient = torch.where(high >= -low, high, low) / torch.full_like(high, INT4_LOW)
    quotient = torch.where(high.isfinite() & low.isfinite(), quotient, torch.nan)
    scales = quotient.to(torch.bfloat16)
    return torch.where(scales == 0, 0.0, scales)  # of zero's two signs one


def _codes(x: Tensor, scales: Tensor, low: int, high: int) -> Tensor:
    """Whole numbers in fp32 (..., D); 0 where the scale is 0 or NaN."""
    wide = scales.float()
    # Zero scales belong to zeros, and to numbers so small that their scale underflowed.
    quotient = x / torch.where(wide == 0, 1.0, wide)
    return quotient.round_().clamp_(low, high).nan_to_num_(0.0)


VALUE_CODECS: Mapping[str, Codec] = {
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

KEY_CODECS: Mapping[str, Codec] = {
    **VALUE_CODECS,
    "int4": Int4Codec("int4", torch.float32, rotated=True),
}
