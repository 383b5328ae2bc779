"""MLX's affine quantization: words of 32 bits, and a scale and a bias for each group of inputs.

w[o, i] = scales[o, g] * code[o, i] + biases[o, g]           (mlx.core.dequantize)
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from kept.errors import UnsupportedFormatError
from kept.models.fields import Fields
from kept.models.foreign_codes import WORD, Coded, Parts, by_group, check_parts, unpack
from kept.models.safetensors_file import TensorInfo

_FLOATS = (torch.float16, torch.bfloat16, torch.float32)
_BITS = (2, 4, 8)


def find_mlx(tensors: Mapping[str, TensorInfo], config: Fields) -> dict[str, Coded]:
    """The matrices of an MLX checkpoint; config: its `quantization`.

    Some layers may have other settings than the rest, so bits follow from the shapes. Raises
    UnsupportedFormatError for bits or a mode that kept does not read, WeightsError for parts that
    do not go together.
    """
    config.choice("mode", "affine", ("affine",))
    size = config.integer("group_size", 64)
    found = {}
    for name in tensors:
        if not name.endswith(".scales"):
            continue
        base = name.removesuffix(".scales")
        parts = {role: f"{base}.{role}" for role in ("weight", "scales", "biases")}
        weight, (num_out, groups) = tensors.get(parts["weight"]), _shape(tensors[name])
        own = config.nested(base) or config
        num_in = groups * own.integer("group_size", size)
        words = weight.shape[-1] if weight is not None and weight.shape else 0
        bits = words * WORD // num_in
        wanted = {
            "weight": ((torch.uint32, torch.int32), (num_out, num_in * bits // WORD)),
            "scales": (_FLOATS, (num_out, groups)),
            "biases": (_FLOATS, (num_out, groups)),
        }
        check_parts(tensors, parts, wanted)
        if bits not in _BITS:
            raise UnsupportedFormatError(
                f"{base} is quantized to {bits} bits, and kept reads MLX's of 2, 4 and 8; load "
                "another checkpoint of the model"
            )
        found[f"{base}.weight"] = Coded((num_out, num_in), parts, partial(_affine, bits))
    return found


def _shape(info: TensorInfo) -> tuple[int, int]:
    return (info.shape[0], info.shape[1]) if len(info.shape) == 2 and all(info.shape) else (1, 1)


def _affine(bits: int, parts: Parts) -> Tensor:
    codes = unpack(parts["weight"], bits).float()
    size, count = codes.shape[1] // parts["scales"].shape[1], codes.shape[1]
    scales, biases = (by_group(parts[x].float(), size, count) for x in ("scales", "biases"))
    return codes * scales + biases
