"""bitsandbytes: four bits by a table (NF4, Dettmers et al. 2023, and FP4), or a byte by row.

4 bits   weight (in * out / 2, 1) uint8, the first of two codes in the high half
         weight.quant_map (16)     the numbers that codes stand for
         weight.absmax (blocks)    scales; or uint8 by a table of 256 of their own, in blocks
         weight.quant_state.bitsandbytes__nf4  JSON: shape, blocksize, nested_offset
8 bits   weight (out, in) int8, SCB (out): w[o, i] = weight[o, i] * SCB[o] / 127
         weight_format  how the weight lies, 0: as rows
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kept.errors import UnsupportedFormatError, WeightsError
from kept.models.fields import Fields
from kept.models.foreign_codes import Coded, Parts, check_parts
from kept.models.safetensors_file import TensorInfo
from kept.ops.quantize import QuantizedMatrix

_STATE = ".quant_state.bitsandbytes__"
_MAX_STATE = 1 << 16  # bytes
_FLOAT32, _UINT8 = (torch.float32,), (torch.uint8,)


def find_bnb(tensors: Mapping[str, TensorInfo], read: Callable[[str], Tensor]) -> dict[str, Coded]:
    """The matrices of a bitsandbytes checkpoint.

    read: gives a tensor, of which only descriptions are read. Raises WeightsError for parts that do
    not go together.
    """
    found = {}
    for name, info in tensors.items():
        if _STATE in name:
            weight = name.partition(_STATE)[0]
            found[weight] = _four_bits(weight, name, tensors, read)
        elif name.endswith(".SCB") and len(info.shape) == 1:
            weight = f"{name.removesuffix('SCB')}weight"
            found[weight] = _eight_bits(weight, name, tensors)
    return found


def _four_bits(
    weight: str, state: str, tensors: Mapping[str, TensorInfo], read: Callable[[str], Tensor]
) -> Coded:
    described = _described(state, tensors[state], read)
    fields = Fields(described, state)
    shape = fields.sizes("shape")
    size, offset = fields.integer("blocksize", 64), 0.0
    if shape is None or len(shape) != 2:
        raise WeightsError(f"{state} has shape = {shape!r}, and no matrix has it")
    count = shape[0] * shape[1]
    blocks = -(-count // size)
    parts = {"weight": weight, "map": f"{weight}.quant_map", "absmax": f"{weight}.absmax"}
    wanted: dict[str, Any] = {
        "weight": (_UINT8, (-(-count // 2), 1)),
        "map": (_FLOAT32, (16,)),
        "absmax": (_FLOAT32, (blocks,)),
    }
    nested = 0
    if f"{weight}.nested_absmax" in tensors:
        nested = fields.integer("nested_blocksize", 256)
        offset = fields.number("nested_offset", positive=False)
        parts |= {name: f"{weight}.{name}" for name in ("nested_absmax", "nested_quant_map")}
        wanted["absmax"] = (_UINT8, (blocks,))
        wanted["nested_absmax"] = (_FLOAT32, (-(-blocks // nested),))
        wanted["nested_quant_map"] = (_FLOAT32, (256,))
    check_parts(tensors, parts, wanted)
    parts["state"] = state
    numbers = partial(_table, (shape[0], shape[1]), size, nested, offset)
    return Coded((shape[0], shape[1]), parts, numbers)


def _described(state: str, info: TensorInfo, read: Callable[[str], Tensor]) -> Mapping[str, Any]:
    if info.dtype != torch.uint8 or len(info.shape) != 1 or info.num_bytes > _MAX_STATE:
        raise WeightsError(
            f"{info.file}: {state!r} is {str(info.dtype).removeprefix('torch.')} {info.shape}, and "
            f"a quantization is described by a row of up to {_MAX_STATE:,} bytes; the file is "
            "damaged"
        )
    try:
        found = json.loads(bytes(read(state).tolist()))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{info.file}: {state!r} is not JSON; the file is damaged") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{info.file}: {state!r} holds a {type(found).__name__}, not an object")
    return found


def _table(shape: tuple[int, int], size: int, nested: int, offset: float, parts: Parts) -> Tensor:
    pairs = parts["weight"].view(-1)
    codes = torch.stack((pairs >> 4, pairs & 15), 1).view(-1)[: shape[0] * shape[1]]
    scales = parts["absmax"]
    if nested:
        outer = parts["nested_absmax"].repeat_interleave(nested)[: len(scales)]
        scales = parts["nested_quant_map"][scales.int()] * outer + offset
    numbers = parts["map"][codes.int()] * scales.repeat_interleave(size)[: len(codes)]
    return numbers.view(shape)


def _eight_bits(weight: str, scale: str, tensors: Mapping[str, TensorInfo]) -> Coded:
    parts = {"weight": weight, "scale": scale}
    num_out = tensors[scale].shape[0]
    info = tensors.get(weight)
    num_in = info.shape[1] if info is not None and len(info.shape) == 2 else 1
    check_parts(
        tensors,
        parts,
        {"weight": ((torch.int8,), (num_out, num_in)), "scale": (_FLOAT32, (num_out,))},
    )
    format = f"{weight}_format"
    if format in tensors:
        if tensors[format].shape not in ((), (1,)):
            raise WeightsError(
                f"{tensors[format].file}: {format!r} is {tensors[format].shape}, not one number; "
                "the file is damaged"
            )
        parts["format"] = format
    numbers, codes = partial(_row_numbers, weight), partial(_row_codes, weight)
    return Coded((num_out, num_in), parts, numbers, codes)


def _check_rows(weight: str, parts: Parts) -> None:
    """Raise UnsupportedFormatError for a weight in the order of a processor's tiles."""
    if "format" in parts and int(parts["format"].item()) != 0:
        raise UnsupportedFormatError(
            f"{weight}_format is {parts['format'].item()}, an order of numbers for one kind of "
            "processor, and kept reads rows (0); save the checkpoint again with bitsandbytes"
        )


def _row_numbers(weight: str, parts: Parts) -> Tensor:
    _check_rows(weight, parts)
    return parts["weight"].float() * (parts["scale"] / 127)[:, None]


def _row_codes(weight: str, parts: Parts) -> QuantizedMatrix | None:
    _check_rows(weight, parts)
    if int(parts["weight"].min()) < -127:
        return None
    return QuantizedMatrix("int8", parts["weight"], parts["scale"] / 127)
