"""A weight matrix as the native kernels read it; native/layout.h draws the layout."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kept.errors import OptionError, WeightsError

if TYPE_CHECKING:
    from kept import _native

PANEL = 32  # outputs that lie together
GROUP = 32  # inputs that share a scale
# Of each format with a scale for a group, what the scales are.
GROUP_SCALES: Mapping[str, torch.dtype] = {
    "int4": torch.bfloat16, "mxfp4": torch.bfloat16,
    "q8_0": torch.float16, "q4_0": torch.float16,
}  # fmt: skip
# Of each format whose codes are whole numbers, in whose order activations of int8 meet them.
_CODE_ORDERS = {"int8": "int8", "q8_0": "int8", "int4": "int4", "q4_0": "int4"}
_SOURCES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, eq=False)
class PackedMatrix:
    """Weights (num_out, num_in) cut into panels, and what belongs to their outputs.

    format: "fp32", "bf16", "int8", "int4", "mxfp4", "q8_0" or "q4_0". gated: the first half of the
    outputs are gates of the second, and the two lie interleaved. data: bytes. channel_scales:
    (outputs,) fp32 of int8; group_scales: (outputs / 32, groups, 32), bf16 of int4 and mxfp4, fp16
    of q8_0 and q4_0; bias: (outputs,) fp32; all in the order of the panels, padded.
    """

    format: str
    gated: bool
    num_out: int
    num_in: int
    data: Tensor
    channel_scales: Tensor | None = None
    group_scales: Tensor | None = None
    bias: Tensor | None = None
    handle: _native.Weights = field(init=False, repr=False)

    def __post_init__(self) -> None:
        from kept import _native

        shape = _native.weights(getattr(_native.Format, self.format), self.gated, *self.shape)
        needed = shape.num_panels * shape.bytes_per_panel
        if self.data.dtype != torch.uint8 or self.data.numel() < needed:
            raise OptionError(
                f"a packed {self.format} matrix {self.shape} takes {needed} bytes, and "
                f"{self.data.numel()} of {self.data.dtype} were given; pack it again"
            )
        outputs, groups = shape.num_panels * PANEL, shape.num_panels * shape.num_groups * PANEL
        int8, of_groups = self.format == "int8", GROUP_SCALES.get(self.format)
        self._check("channel_scales", self.channel_scales, torch.float32, outputs, int8)
        dtype = of_groups or torch.bfloat16
        self._check("group_scales", self.group_scales, dtype, groups, of_groups is not None)
        self._check("bias", self.bias, torch.float32, outputs, self.bias is not None)
        handle = _native.weights(
            getattr(_native.Format, self.format),
            self.gated,
            *self.shape,
            self.data,
            self.channel_scales,
            self.group_scales,
            self.bias,
        )
        object.__setattr__(self, "handle", handle)

    def _check(
        self, name: str, part: Tensor | None, dtype: torch.dtype, count: int, needed: bool
    ) -> None:
        if part is None and not needed:
            return
        fits = part is not None and part.dtype == dtype and part.is_contiguous()
        if not fits or part is None or part.numel() != count or not needed:
            given = "none" if part is None else f"{part.numel()} of {part.dtype}"
            raise OptionError(
                f"a packed {self.format} matrix {self.shape} takes {count if needed else 'no'} "
                f"{name} of {dtype}, and {given} were given; pack it again"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(num_out, num_in)."""
        return self.num_out, self.num_in

    @property
    def code_order(self) -> str | None:
        """Of which format activations of int8 have the order to meet it: "int8" or "int4".

        None: they do not.
        """
        return _CODE_ORDERS.get(self.format)

    @property
    def num_bytes(self) -> int:
        """Bytes that a pass over the matrix reads: codes, scales and bias, padding included."""
        parts = (self.data, self.channel_scales, self.group_scales, self.bias)
        return sum(x.nbytes for x in parts if x is not None)

    def unpack(self) -> Tensor:
        """The numbers (num_out, num_in), fp32: exactly what the kernels multiply with."""
        from kept import _native

        out = torch.empty(self.shape, dtype=torch.float32, device="cpu")
        _native.unpack(self.handle, out)
        return out


def pack_matrix(
    weight: Tensor, format: str, *, gated: bool = False, bias: Tensor | None = None
) -> PackedMatrix:
    """Pack weight (num_out, num_in) of fp32, bf16 or fp16 as "fp32" or "bf16" (rounded to it).

    bias: (num_out,). Raises OptionError for another dtype or format.
    """
    from kept import _native

    if weight.dtype not in _SOURCES or format not in ("fp32", "bf16"):
        raise OptionError(
            f"weights of {weight.dtype} cannot be packed as {format!r}; cast them to float32 or "
            "bfloat16, and pack them as 'fp32' or 'bf16'"
        )
    weight = weight.detach().contiguous()
    shape, data = room_for(format, gated, weight.shape)
    _native.pack_floats(shape, weight, data)
    return PackedMatrix(
        format, gated, len(weight), weight.shape[1], data, bias=outputs(shape, bias, len(weight))
    )


def pack_int8(
    codes: Tensor, scales: Tensor, *, gated: bool = False, bias: Tensor | None = None
) -> PackedMatrix:
    """Pack int8 codes (num_out, num_in) with an fp32 scale for each output (num_out,)."""
    from kept import _native

    _check_codes("int8", codes, torch.int8, scales, torch.float32, (len(codes),))
    codes = codes.contiguous()
    shape, data = room_for("int8", gated, codes.shape)
    _native.pack_codes(shape, codes, data)
    parts = outputs(shape, scales, len(codes)), None, outputs(shape, bias, len(codes))
    return PackedMatrix("int8", gated, len(codes), codes.shape[1], data, *parts)


def pack_int4(
    codes: Tensor, scales: Tensor, *, gated: bool = False, bias: Tensor | None = None
) -> PackedMatrix:
    """Pack int4 levels, uint8 (num_out, num_in) of 0 to 15, with bf16 scales (num_out, groups)."""
    return pack_grouped("int4", codes, scales, gated=gated, bias=bias)


def pack_mxfp4(
    codes: Tensor, scales: Tensor, *, gated: bool = False, bias: Tensor | None = None
) -> PackedMatrix:
    """`pack_int4` of codes of e2m1, whose scales are powers of two."""
    return pack_grouped("mxfp4", codes, scales, gated=gated, bias=bias)


def pack_grouped(
    format: str, codes: Tensor, scales: Tensor, *, gated: bool = False, bias: Tensor | None = None
) -> PackedMatrix:
    """Pack codes (num_out, num_in) with a scale for each group, (num_out, groups).

    format: "int4", "mxfp4", "q8_0" or "q4_0". codes: int8 of q8_0, of the others uint8 of 0 to 15.
    scales: fp16 of q8_0 and q4_0, else bf16. Raises OptionError for other dtypes or shapes.
    """
    from kept import _native

    dtype, groups = GROUP_SCALES[format], -(-codes.shape[-1] // GROUP)
    kind = torch.int8 if format == "q8_0" else torch.uint8
    _check_codes(format, codes, kind, scales, dtype, (len(codes), groups))
    codes, scales = codes.contiguous(), scales.contiguous()
    shape, data = room_for(format, gated, codes.shape)
    _native.pack_codes(shape, codes, data)
    room = room_for_scales(shape, dtype)
    _native.pack_group_scales(shape, scales, room)
    parts = None, room, outputs(shape, bias, len(codes))
    return PackedMatrix(format, gated, len(codes), codes.shape[1], data, *parts)


def pack_blocks(
    format: str,
    size: tuple[int, int],
    pieces: Iterable[tuple[int, Tensor]],
    *,
    gated: bool = False,
    bias: Tensor | None = None,
) -> PackedMatrix:
    """Pack a matrix of `size` (num_out, num_in) out of blocks of "q8_0" or "q4_0".

    pieces: the first row of each, and its rows' blocks (rows, row bytes) uint8, which `blocks.py`
    describes; all rows of the matrix are among them. Each is read before the next is asked for.
    Raises WeightsError for a row that no panel holds, as a scale is not finite or a code is -128.
    """
    from kept import _native

    shape, data = room_for(format, gated, size)
    scales = room_for_scales(shape, GROUP_SCALES[format])
    for first, rows in pieces:
        wrong = _native.pack_blocks(shape, rows.contiguous(), first, data, scales)
        if wrong >= 0:
            raise refuse_row(wrong, format, size)
    parts = None, scales, outputs(shape, bias, size[0])
    return PackedMatrix(format, gated, *size, data, *parts)


def refuse_row(row: int, format: str, size: tuple[int, int], source: str = "") -> WeightsError:
    """The error for a row of blocks that no panel holds. source: what it comes from, if known."""
    return WeightsError(
        f"row {row} of a matrix {size}{source} has a block of {format.upper()} with a scale that "
        "is not finite, or a code of -128, which is not held as it is; load it with "
        "quantize='int8', which refuses the one and rounds the other"
    )


def _check_codes(
    format: str,
    codes: Tensor,
    codes_dtype: torch.dtype,
    scales: Tensor,
    scales_dtype: torch.dtype,
    scales_shape: tuple[int, ...],
) -> None:
    fits = codes.dim() == 2 and (codes.dtype, scales.dtype) == (codes_dtype, scales_dtype)
    if not fits or scales.shape != scales_shape:
        raise OptionError(
            f"codes {tuple(codes.shape)} of {codes.dtype} with scales {tuple(scales.shape)} of "
            f"{scales.dtype} are no {format} matrix; it takes {codes_dtype} (out, in) and "
            f"{scales_dtype} {scales_shape}"
        )


def room_for_scales(shape: _native.Weights, dtype: torch.dtype) -> Tensor:
    """Zeros (panels, groups, 32) of 16 bits."""
    from kept import _native

    size = shape.num_panels, shape.num_groups, PANEL
    return _native.zeros(2 * math.prod(size)).view(dtype).view(size)


def room_for(format: str, gated: bool, size: Sequence[int]) -> tuple[_native.Weights, Tensor]:
    """The shape of a matrix (num_out, num_in), and zeros (bytes) for its panels."""
    from kept import _native

    num_out, num_in = size
    shape = _native.weights(getattr(_native.Format, format), gated, num_out, num_in)
    return shape, _native.zeros(shape.num_panels * shape.bytes_per_panel)


def outputs(shape: _native.Weights, values: Tensor | None, num_out: int) -> Tensor | None:
    """A number for each of a matrix's outputs, as `PackedMatrix` has them; None for None."""
    from kept import _native

    if values is None:
        return None
    wide = values.detach().float().contiguous()
    if wide.shape != (num_out,):
        raise OptionError(
            f"scales or biases {tuple(wide.shape)} do not fit {num_out} outputs; give one each"
        )
    out = torch.empty(shape.num_panels * PANEL, dtype=torch.float32, device="cpu")
    _native.pack_outputs(shape, wide, out)
    return out
