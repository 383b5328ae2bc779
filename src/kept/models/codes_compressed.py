"""compressed-tensors, what llm-compressor and vLLM write: integers or floats of 8 bits, or integers
packed into words.

    pack-quantized   weight_packed (out, in * bits / 32), codes from 0, half of 2^bits the zero
                     weight_scale (out, groups), weight_shape (2), weight_zero_point, weight_g_idx
    int-quantized    weight (out, in) int8, weight_scale (out, groups), weight_zero_point
    float-quantized  weight (out, in) E4M3, weight_scale; by `block_structure` also a scale a block
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kept.errors import UnsupportedFormatError, WeightsError
from kept.models.codes_fp8 import FLOATS8, float8
from kept.models.fields import Fields
from kept.models.foreign_codes import WORD, Coded, Parts, by_group, check_parts, unpack
from kept.models.safetensors_file import TensorInfo
from kept.ops.quantize import QuantizedMatrix

_SCALES = (torch.float16, torch.bfloat16, torch.float32)
_FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized")


def find_compressed(tensors: Mapping[str, TensorInfo], config: Fields) -> dict[str, Coded]:
    """The matrices of a compressed-tensors checkpoint; config: its quantization_config.

    Raises UnsupportedFormatError for a format that kept does not read, WeightsError for parts that
    do not go together.
    """
    config.choice("format", "dense", (*_FORMATS, "dense"))
    groups = _weights_of(config)
    bits, block = _bits(groups), _block(groups)
    found: dict[str, Coded] = {}
    for name, info in tensors.items():
        base = name.rpartition(".")[0]
        if name.endswith(".weight_packed"):
            found[f"{base}.weight"] = _packed(base, tensors, bits)
        elif not name.endswith(".weight") or len(info.shape) != 2:
            continue
        elif info.dtype == torch.int8:
            found[name] = _int8(base, tensors)
        elif info.dtype in FLOATS8:
            found[name] = float8(name, tensors, block)
    return found


def _weights_of(config: Fields) -> list[Fields]:
    """What is said of the weights in each group of layers."""
    groups = config.nested("config_groups") or Fields({})
    found = (group.nested("weights") for name in groups.names() if (group := groups.nested(name)))
    return [weights for weights in found if weights is not None]


def _bits(groups: list[Fields]) -> int:
    found = {weights.integer("num_bits", 8) for weights in groups}
    if len(found) > 1 or not found <= {4, 8}:
        raise UnsupportedFormatError(
            f"quantization_config has groups of {sorted(found)} bits, and kept reads such as have "
            "4 or 8 bits in all; load another checkpoint of the model"
        )
    return found.pop() if found else 4


def _block(groups: list[Fields]) -> tuple[int, ...] | None:
    found = {weights.sizes("block_structure") for weights in groups} - {None}
    if len(found) > 1 or any(len(block or ()) != 2 for block in found):
        raise UnsupportedFormatError(
            f"quantization_config has block_structure = {sorted(map(str, found))}, and kept reads "
            "one pair (rows, columns) for all layers; load another checkpoint of the model"
        )
    return found.pop() if found else None


def _packed(base: str, tensors: Mapping[str, TensorInfo], bits: int) -> Coded:
    words = tensors[f"{base}.weight_packed"].shape
    scales = tensors.get(f"{base}.weight_scale")
    if len(words) != 2 or scales is None or len(scales.shape) != 2 or 0 in scales.shape:
        raise WeightsError(f"{base}.weight_packed is {words} and has no scales beside it that fit")
    (num_out, _), num_in, groups = words, words[1] * WORD // bits, scales.shape[1]
    parts = {role: f"{base}.weight_{role}" for role in ("packed", "scale")}
    wanted: dict[str, Any] = {
        "packed": ((torch.int32,), words),
        "scale": (_SCALES, (num_out, groups)),
    }
    optional = {
        "zero_point": ((torch.int32,), (-(-num_out * bits // WORD), groups)),
        "g_idx": ((torch.int32,), (num_in,)),
        "shape": ((torch.int64, torch.int32), (2,)),
    }
    for role, kind in optional.items():
        if f"{base}.weight_{role}" in tensors:
            parts[role], wanted[role] = f"{base}.weight_{role}", kind
    check_parts(tensors, parts, wanted)
    if num_in % groups:
        raise WeightsError(f"{base}: {num_in:,} inputs are not {groups:,} groups of one size")
    return Coded((num_out, num_in), parts, partial(_numbers, base, bits, (num_out, num_in)))


def _numbers(base: str, bits: int, shape: tuple[int, int], parts: Parts) -> Tensor:
    num_out, num_in = shape
    if "shape" in parts and parts["shape"].tolist() != list(shape):
        raise WeightsError(
            f"{base}.weight_shape says {parts['shape'].tolist()}, and what is packed is {shape}"
        )
    codes = unpack(parts["packed"], bits)
    scales = parts["scale"].float()
    zeros = torch.full_like(scales, 1 << (bits - 1))
    if "zero_point" in parts:
        zeros = unpack(parts["zero_point"].T.contiguous(), bits)[:, :num_out].T.float()
    groups = scales.shape[1]
    if "g_idx" in parts and int(parts["g_idx"].min()) >= 0:
        order = parts["g_idx"].long()
        if int(order.max()) >= groups:
            raise WeightsError(f"{base}.weight_g_idx names groups beyond the {groups:,} there are")
        return (codes - zeros[:, order]) * scales[:, order]
    size = num_in // groups
    return (codes - by_group(zeros, size, num_in)) * by_group(scales, size, num_in)


def _int8(base: str, tensors: Mapping[str, TensorInfo]) -> Coded:
    name, scale = f"{base}.weight", f"{base}.weight_scale"
    num_out, num_in = tensors[name].shape
    found = tensors.get(scale)
    groups = found.shape[1] if found is not None and len(found.shape) == 2 else 1
    rows = 1 if found is not None and found.shape in ((1,), (1, 1)) else num_out
    shape: tuple[int, ...] = (rows, groups)
    if found is not None and len(found.shape) < 2:
        shape = (rows,)
    parts = {"weight": name, "scale": scale}
    wanted: dict[str, Any] = {
        "weight": ((torch.int8,), (num_out, num_in)),
        "scale": (_SCALES, shape),
    }
    if f"{base}.weight_zero_point" in tensors:
        parts["zero_point"] = f"{base}.weight_zero_point"
        wanted["zero_point"] = ((torch.int8,), shape)
    check_parts(tensors, parts, wanted)
    if num_in % groups:
        raise WeightsError(f"{base}: {num_in:,} inputs are not {groups:,} groups of one size")
    return Coded((num_out, num_in), parts, _int8_numbers, _int8_codes)


def _int8_numbers(parts: Parts) -> Tensor:
    weight, scales = parts["weight"].float(), _rows(parts, "scale")
    size, count = weight.shape[1] // scales.shape[1], weight.shape[1]
    if "zero_point" in parts:
        weight = weight - by_group(_rows(parts, "zero_point"), size, count)
    return weight * by_group(scales, size, count)


def _int8_codes(parts: Parts) -> QuantizedMatrix | None:
    """The codes as they are: with one scale an output, no zero, and none that kept's int8 lacks."""
    weight, scales = parts["weight"], _rows(parts, "scale")
    zero = parts.get("zero_point")
    if scales.shape[1] > 1 or (zero is not None and bool(zero.any())) or int(weight.min()) < -127:
        return None
    return QuantizedMatrix("int8", weight, scales[:, 0].contiguous())


def _rows(parts: Parts, role: str) -> Tensor:  # (out, groups) fp32
    found = parts[role].float()
    found = found.view(-1, 1) if found.dim() < 2 else found
    return found.expand(len(parts["weight"]), -1)
