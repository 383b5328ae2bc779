"""The layout of packed matrices of codes in plain torch, as native/layout.h draws it.

This is what files of packed weights are read with where the native kernels do not run them, and
what the sizes of packed matrices are known from without packing any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kept.ops.quantize import CodeFormat, QuantizedMatrix

LAYOUT_VERSION = 1
PANEL = 32  # outputs that lie together
GROUP = 32  # inputs that share a group's scale, and what inputs are padded to
STEP_BYTES = 128  # of a panel's step of inputs
_STEP_INPUTS: Mapping[CodeFormat, int] = {"int8": 4, "int4": 8, "q8_0": 4, "q4_0": 8}


@dataclass(frozen=True, slots=True)
class PackedShape:
    """What a quantized matrix (num_out, num_in) takes once it is packed.

    gated: the first half of the outputs are gates of the second, and the two lie interleaved.
    """

    format: CodeFormat
    gated: bool
    num_out: int
    num_in: int

    @property
    def num_panels(self) -> int:
        """Panels of 32 outputs, the last one padded."""
        width, step = (self.num_out // 2, PANEL // 2) if self.gated else (self.num_out, PANEL)
        return -(-width // step)

    @property
    def num_groups(self) -> int:
        """Groups of 32 inputs, the last one padded."""
        return -(-self.num_in // GROUP)

    def parts(self, bias: bool = False) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """The dtype and shape of each tensor of a PackedMatrix, by its name there.

        bias: whether the outputs have one.
        """
        panels, groups = self.num_panels, self.num_groups
        steps = groups * GROUP // _STEP_INPUTS[self.format]
        found: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
            "data": (torch.uint8, (panels * steps * STEP_BYTES,))
        }
        if self.format == "int8":
            found["channel_scales"] = torch.float32, (panels * PANEL,)
        else:
            dtype = torch.bfloat16 if self.format == "int4" else torch.float16
            found["group_scales"] = dtype, (panels, groups, PANEL)
        if bias:
            found["bias"] = torch.float32, (panels * PANEL,)
        return found

    def num_bytes(self, bias: bool = False) -> int:
        """Bytes of all its tensors."""
        parts = self.parts(bias).values()
        return sum(torch.Size(shape).numel() * dtype.itemsize for dtype, shape in parts)


def unpack_matrix(
    shape: PackedShape, data: Tensor, scales: Tensor, bias: Tensor | None = None
) -> tuple[QuantizedMatrix, Tensor | None]:
    """Codes and scales in the order of the model's outputs and inputs, and the bias (out,) fp32.

    shape: of int8 or int4. data, scales, bias: a PackedMatrix's tensors, on any device. The inverse
    of `pack_int8` and `pack_int4`.
    """
    panels, num_in = shape.num_panels, shape.num_in
    if shape.format == "int8":
        # 4 columns, pair, column, input: 16 bytes a block of 4 columns
        steps = data.view(torch.int8).view(panels, -1, 8, 2, 4, 2).permute(0, 2, 4, 1, 3, 5)
        codes = _model_order(shape, steps.reshape(panels * PANEL, -1))[:, :num_in]
        return QuantizedMatrix("int8", codes, _model_order(shape, scales)), _bias(shape, bias)
    # column, input % 2, byte of the 16 bits, nibble: nibble i of the bits is input pair i
    words = data.view(panels, -1, PANEL, 2, 2)
    nibbles = torch.stack((words & 15, words >> 4), dim=-1).permute(0, 2, 1, 4, 5, 3)
    codes = _model_order(shape, nibbles.reshape(panels * PANEL, -1))[:, :num_in]
    by_output = scales.permute(0, 2, 1).reshape(panels * PANEL, -1)
    return QuantizedMatrix("int4", codes, _model_order(shape, by_output)), _bias(shape, bias)


def _bias(shape: PackedShape, bias: Tensor | None) -> Tensor | None:
    return None if bias is None else _model_order(shape, bias)


def _model_order(shape: PackedShape, rows: Tensor) -> Tensor:  # (panels * 32, ...) -> (out, ...)
    if not shape.gated:
        return rows[: shape.num_out].contiguous()
    half, rest = PANEL // 2, rows.shape[1:]
    halves = rows.view(-1, 2, half, *rest).transpose(0, 1).reshape(2, -1, *rest)
    return halves[:, : shape.num_out // 2].reshape(shape.num_out, *rest)
