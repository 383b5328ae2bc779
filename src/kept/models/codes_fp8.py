"""Floats of 8 bits (E4M3, Micikevicius et al. 2022) with a scale a tensor, an output or a block.

fp8            weight (out, in)  weight_scale_inv (out / 128, in / 128), Qwen 3's and DeepSeek's
fbgemm_fp8     weight (out, in)  weight_scale (out, 1)
w[o, i] = weight[o, i] * scale[o // rows, i // columns]
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from kept.errors import UnsupportedFormatError, WeightsError
from kept.models.fields import Fields
from kept.models.foreign_codes import Coded, Parts
from kept.models.safetensors_file import TensorInfo

FLOATS8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_SCALES = (torch.float32, torch.bfloat16, torch.float16)
_NAMES = ("weight_scale_inv", "weight_scale")


def find_fp8(tensors: Mapping[str, TensorInfo], config: Fields) -> dict[str, Coded]:
    """The matrices of a checkpoint in floats of 8 bits.

    config: its quantization_config. Raises UnsupportedFormatError for a block that is no pair of
    sizes, WeightsError for scales that do not fit their weights.
    """
    block = config.sizes("weight_block_size")
    if block is not None and len(block) != 2:
        raise UnsupportedFormatError(
            f"quantization_config has weight_block_size = {list(block)}, and kept reads pairs "
            "(rows, columns); load another checkpoint of the model"
        )
    found = {}
    for name, info in tensors.items():
        if info.dtype in FLOATS8 and name.endswith(".weight") and len(info.shape) == 2:
            found[name] = float8(name, tensors, block)
    return found


def float8(
    name: str, tensors: Mapping[str, TensorInfo], block: tuple[int, ...] | None = None
) -> Coded:
    """The matrix of this name, whose scale lies beside it."""
    base, (num_out, num_in) = name.removesuffix("weight"), tensors[name].shape
    scale = next((base + each for each in _NAMES if base + each in tensors), None)
    if scale is None:
        raise WeightsError(
            f"{tensors[name].file}: {name!r} is in floats of 8 bits and has no scale beside it; "
            "download the checkpoint again"
        )
    info = tensors[scale]
    blocks = (-(-num_out // block[0]), -(-num_in // block[1])) if block else ()
    fits = info.shape in ((), (1,), (num_out,), (num_out, 1), (1, 1), *([blocks] if blocks else []))
    if info.dtype not in _SCALES or not fits:
        raise WeightsError(
            f"{info.file}: {scale!r} is {str(info.dtype).removeprefix('torch.')} {info.shape}, "
            f"which is no scale of weights {(num_out, num_in)}; the file is damaged, or its "
            "quantization is not what config.json says"
        )

    def numbers(parts: Parts) -> Tensor:
        weight, scales = parts["weight"].float(), parts["scale"].float()
        if blocks and scales.shape == blocks and block is not None:
            scales = scales.repeat_interleave(block[0], 0)[:num_out]
            scales = scales.repeat_interleave(block[1], 1)[:, :num_in]
        elif scales.numel() > 1:
            scales = scales.view(-1, 1)
        return weight * scales

    return Coded((num_out, num_in), {"weight": name, "scale": scale}, numbers)
