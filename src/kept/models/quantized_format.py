"""What a quantized checkpoint is: an ordinary folder whose matrices lie as the kernels read them.

    config.json         the model's own, and the entry `kept_quantization`: version, format, layout,
                        fingerprint
    kept.safetensors    metadata    kept_quantization   the same entry as JSON
                        tensors     blocks.0.attention.qkv.data            as PackedMatrix has them
                                    blocks.0.attention.qkv.group_scales    (int4)
                                    blocks.0.attention.qkv.channel_scales  (int8)
                                    blocks.0.attention.qkv.bias            fp32, in packed order
                                    ...
                                    blocks.0.attention_norm.weight         whatever is no matrix
    the rest            tokenizer, generation_config.json, chat template: copies

A matrix that embedding and head share is stored once, under the embedding's name. Matrices begin at
multiples of 64 bytes of the file. The fingerprint is of all names, dtypes and shapes; the numbers
carry no checksum, since verifying one would read the whole file at every start.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kept.errors import CheckpointError, UnsupportedFormatError
from kept.models.causal_lm import CausalLM
from kept.models.checkpoint import QUANTIZATION, QUANTIZE_AGAIN
from kept.models.dtypes import dtype_of_parameter
from kept.models.layers import Linear
from kept.models.native import matrices
from kept.ops.packed_layout import GROUP, LAYOUT_VERSION, PANEL, STEP_BYTES, PackedShape
from kept.ops.quantize import INT4_LEVELS, QUANTIZED_FORMATS, QuantizedFormat

VERSION = 1
LAYOUT: Mapping[str, Any] = {
    "version": LAYOUT_VERSION,
    "panel": PANEL,
    "group": GROUP,
    "step_bytes": STEP_BYTES,
    "int4_levels": list(INT4_LEVELS),
}

TensorTypes = dict[str, tuple[torch.dtype, tuple[int, ...]]]


@dataclass(frozen=True)
class StoredMatrix:
    """A matrix of a model as it is stored. name: of the first module that holds it."""

    name: str
    shape: PackedShape
    has_bias: bool


def stored_matrices(model: CausalLM, format: QuantizedFormat) -> list[StoredMatrix]:
    """The matrices that are quantized, in the order of `matrices(model)`."""
    names = {id(module): name for name, module in model.named_modules()}
    found = []
    for modules in matrices(model):
        linear = next((module for module in modules if isinstance(module, Linear)), None)
        shape = PackedShape(format, linear is not None and linear.gated, *modules[0].weight.shape)
        has_bias = linear is not None and linear.bias is not None
        found.append(StoredMatrix(names[id(modules[0])], shape, has_bias))
    return found


def plain_parameters(model: CausalLM) -> dict[str, Tensor]:
    """The parameters that stay as they are, by name: norms, tables of positions."""
    packed: set[int] = set()
    for module in (module for modules in matrices(model) for module in modules):
        packed |= {id(x) for x in module.parameters(recurse=False)}
    return {name: x for name, x in model.named_parameters() if id(x) not in packed}


def stored_tensors(model: CausalLM, format: QuantizedFormat, dtype: torch.dtype) -> TensorTypes:
    """Every tensor of the file with its dtype and shape, in the order of the file.

    dtype: of what is not quantized. The model may be on the meta device.
    """
    found: TensorTypes = {}
    for matrix in stored_matrices(model, format):
        for part, kind in matrix.shape.parts(matrix.has_bias).items():
            found[f"{matrix.name}.{part}"] = kind
    for name, parameter in plain_parameters(model).items():
        found[name] = dtype_of_parameter(name, dtype), tuple(parameter.shape)
    return found


def quantized_sizes(model: CausalLM, dtype: torch.dtype) -> dict[str, int]:
    """Bytes of a model's weights in each format once quantized; see `stored_tensors`."""
    return {name: num_bytes(stored_tensors(model, name, dtype)) for name in QUANTIZED_FORMATS}


def quantized_format(folder: Path, config: Mapping[str, Any]) -> QuantizedFormat | None:
    """`read_format`, or None for a checkpoint that kept has not quantized."""
    return read_format(folder, config) if QUANTIZATION in config else None


def num_bytes(tensors: TensorTypes) -> int:
    """Bytes of all of them."""
    return sum(torch.Size(shape).numel() * dtype.itemsize for dtype, shape in tensors.values())


def make_entry(format: QuantizedFormat, tensors: TensorTypes) -> dict[str, Any]:
    """The entry that config.json and the file carry."""
    return {
        "version": VERSION,
        "format": format,
        "layout": dict(LAYOUT),
        "fingerprint": fingerprint(tensors),
    }


def fingerprint(tensors: TensorTypes) -> str:
    """A checksum of all names, dtypes and shapes."""
    lines = sorted(f"{name} {dtype} {shape}" for name, (dtype, shape) in tensors.items())
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=32).hexdigest()


def read_format(folder: Path, config: Mapping[str, Any]) -> QuantizedFormat:
    """The format of a quantized checkpoint, from its config.json.

    Raises UnsupportedFormatError where this kept or this machine cannot read it, CheckpointError
    for an entry that is damaged.
    """
    entry, where = config[QUANTIZATION], folder / "config.json"
    version = entry.get("version") if isinstance(entry, Mapping) else None
    if isinstance(version, bool) or not isinstance(version, int):
        raise CheckpointError(
            f"{where}: {QUANTIZATION} must be an object with a version, and is {entry!r}; "
            f"{QUANTIZE_AGAIN}"
        )
    if version != VERSION:
        remedy = "update kept, or " if version > VERSION else ""
        raise UnsupportedFormatError(
            f"{where} is a quantized checkpoint of version {version}, and this kept reads version "
            f"{VERSION}; {remedy}{QUANTIZE_AGAIN}"
        )
    layout = entry.get("layout")
    if layout != LAYOUT:
        differing = [
            f"{name} {layout.get(name)!r} instead of {value!r}"
            for name, value in (LAYOUT.items() if isinstance(layout, Mapping) else ())
            if layout.get(name) != value
        ]
        raise UnsupportedFormatError(
            f"{where}: its matrices lie in another layout than this kept's kernels read "
            f"({'; '.join(differing) or f'layout is {layout!r}'}); {QUANTIZE_AGAIN}"
        )
    refuse_big_endian()
    for format in QUANTIZED_FORMATS:
        if entry.get("format") == format:
            return format
    raise CheckpointError(
        f"{where}: {QUANTIZATION} names the format {entry.get('format')!r}, which is not one of "
        f"{', '.join(QUANTIZED_FORMATS)}; {QUANTIZE_AGAIN}"
    )


def refuse_big_endian() -> None:
    """Raise UnsupportedFormatError where the bytes of packed numbers would lie the other way."""
    if sys.byteorder != "little":
        raise UnsupportedFormatError(
            "quantized checkpoints hold little-endian numbers, and this machine is big-endian; "
            "load the original checkpoint"
        )


def as_metadata(entry: Mapping[str, Any]) -> dict[str, str]:
    """The entry as a safetensors file carries it."""
    return {QUANTIZATION: json.dumps(entry, sort_keys=True)}
