"""A model of a given shape with seeded random weights, filled at the speed of memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from kept.errors import OptionError
from kept.format import dtype_name, format_bytes
from kept.machine import describe_machine
from kept.models import CausalLM, build_model, resolve_device
from kept.models.layers import LayerNorm, RMSNorm, ShiftedRMSNorm
from kept.models.registry import find_family

STD = 0.02  # what GPT-2 and the Llama family begin their training with
_PATTERN = 1_048_583  # prime, and larger than any vocabulary: no two rows of a matrix are alike


def random_model(
    config: Mapping[str, Any],
    dtype: torch.dtype,
    seed: int,
    device: str | torch.device | None = None,
) -> CausalLM:
    """A model of a config.json's shape, in eval mode, whose weights are drawn from N(0, 0.02^2).

    Norms are the identity (weights 1, biases 0) and tied parameters stay tied. About a million
    values are drawn and laid end to end through every parameter, from an offset of its own, so a
    model of billions is filled in seconds, and memory holds its weights once. The same seed gives
    the same weights.

    Raises OptionError where the machine has less free memory than the weights need, and what
    `build_model` raises for a config kept does not run.
    """
    model = build_model(config)
    place = resolve_device(device)
    _check_memory(model, dtype, place)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(_PATTERN, generator=generator, dtype=torch.float32, device="cpu")
    pattern = (drawn * STD).to(place, dtype)
    made: dict[nn.Parameter, nn.Parameter] = {}
    for name, meta in list(model.named_parameters(remove_duplicate=False)):
        path, _, leaf = name.rpartition(".")
        owner = model.get_submodule(path)
        if meta not in made:
            offset = int(
                torch.randint(_PATTERN, (), generator=generator, dtype=torch.int64, device="cpu")
            )
            values = torch.empty(meta.shape, dtype=dtype, device=place)
            _fill(values, owner, leaf, pattern, offset)
            made[meta] = nn.Parameter(values, requires_grad=meta.requires_grad)
        setattr(owner, leaf, made[meta])
    return model.eval()


def save_checkpoint(model: CausalLM, config: Mapping[str, Any], folder: Path) -> None:
    """Write a model as the safetensors folder of its config.json, in the model's dtype.

    The inverse of loading one. Raises OSError.
    """
    family = find_family(config)
    weights = family.weight_map(family.read_config(dict(config)))
    tensors: dict[str, Tensor] = {}
    written: set[nn.Parameter] = set()
    for name, place in weights.placements.items():
        parameter = model.get_parameter(place.parameter)
        if name in weights.optional and parameter in written:
            continue  # tied: one name is enough
        written.add(parameter)
        tensor = parameter.detach() if place.rows is None else parameter.detach()[place.rows]
        tensors[name] = (tensor.T if place.transpose else tensor).clone(
            memory_format=torch.contiguous_format
        )
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    described = {**config, "dtype": dtype_name(model.dtype)}
    (folder / "config.json").write_text(json.dumps(described), encoding="utf-8")


def _fill(values: Tensor, owner: nn.Module, leaf: str, pattern: Tensor, offset: int) -> None:
    if isinstance(owner, RMSNorm | LayerNorm):
        is_factor = leaf == "weight" and not isinstance(owner, ShiftedRMSNorm)
        values.fill_(1.0 if is_factor else 0.0)
        return
    flat, begin = values.view(-1), 0
    while begin < len(flat):
        part = pattern[offset : offset + len(flat) - begin]
        flat[begin : begin + len(part)] = part
        begin, offset = begin + len(part), 0


def _check_memory(model: CausalLM, dtype: torch.dtype, device: torch.device) -> None:
    available = describe_machine().available_memory if device.type == "cpu" else None
    needed = model.num_parameters * dtype.itemsize
    if available is not None and needed > available:
        raise OptionError(
            f"the weights take {format_bytes(needed)} as {str(dtype).removeprefix('torch.')} and "
            f"{format_bytes(available)} of memory are free; use a smaller shape or a narrower dtype"
        )
