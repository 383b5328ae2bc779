"""Reading a LoRA adapter: its low-rank pairs, and which layers of the base they belong to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from kept.errors import (
    CheckpointNotFoundError,
    UnsupportedFormatError,
    UnsupportedModelError,
    WeightsError,
)
from kept.models.adapter import Adapter
from kept.models.adapter_config import CONFIG, AdapterConfig, read_adapter_config
from kept.models.causal_lm import CausalLM
from kept.models.head_matrices import LatentMatrices
from kept.models.layers import Linear
from kept.models.safetensors_file import SafetensorsFile
from kept.models.weight_map import Placement, WeightMap, arranged
from kept.ops import LowRank
from kept.paths import read_path

WEIGHTS: Final = "adapter_model.safetensors"
_ROOT = "base_model.model."
_PAIR = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def read_adapter(name: str, folder: object, model: CausalLM, weight_map: WeightMap) -> Adapter:
    """Read the adapter of a folder as peft saves it, for a model whose tensors the map places.

    Raises CheckpointNotFoundError where there is no such folder or file, UnsupportedModelError for
    an adapter that is no plain LoRA of linear layers, UnsupportedFormatError for numbers that are
    no floats, WeightsError for tensors that do not fit the model or each other, and as
    `read_adapter_config`.
    """
    path = read_path(folder, f"the adapter {name!r}").expanduser()
    if not path.is_dir():
        raise CheckpointNotFoundError(
            f"the adapter {name!r} is to be in {str(path)!r}, which is no folder here; pass the "
            f"folder with its {CONFIG} and {WEIGHTS} (a hub's has to be downloaded first)"
        )
    config = read_adapter_config(path)
    file = _open(path)
    parts: dict[str, list[LowRank]] = {}
    reached: dict[tuple[str, int], str] = {}
    for module, sides in _pairs(file).items():
        home, part = _read_part(file, module, sides, config, model, weight_map)
        parts.setdefault(home, []).append(part)
        before = reached.setdefault((home, part.start), sides["A"])
        if before != sides["A"]:  # under another name that the base's own tensors may have
            raise _twice(file, before, sides["A"])
    file.close()
    ordered = {home: tuple(sorted(each, key=lambda p: p.start)) for home, each in parts.items()}
    return Adapter(name, _digest(path), ordered)


def _open(folder: Path) -> SafetensorsFile:
    if not (folder / WEIGHTS).exists() and (folder / "adapter_model.bin").exists():
        raise UnsupportedFormatError(
            f"{folder} has an adapter_model.bin, which kept does not unpickle; save the adapter "
            f"again with peft (safe_serialization=True), which writes {WEIGHTS}"
        )
    return SafetensorsFile(folder / WEIGHTS, "save the adapter again")


def _pairs(file: SafetensorsFile) -> dict[str, dict[str, str]]:
    """The stored names of A and B of each module, by its path within the base."""
    found: dict[str, dict[str, str]] = {}
    for name in file.tensors:
        match = _PAIR.fullmatch(name.removeprefix(_ROOT))
        if match is None:
            raise UnsupportedModelError(
                f"{file.path} holds {name!r}, which is no part of a plain LoRA of linear layers "
                "(lora_A.weight and lora_B.weight); kept runs no other"
            )
        sides, side = found.setdefault(match["module"], {}), match["side"]
        if side in sides:
            raise _twice(file, sides[side], name)
        sides[side] = name
    if not found:
        raise WeightsError(f"{file.path} holds no tensors; save the adapter again")
    for module, sides in found.items():
        if len(sides) != 2:
            raise WeightsError(
                f"{file.path} holds lora_{next(iter(sides))} of {module!r} alone, and a LoRA has "
                "pairs; save the adapter again"
            )
    return found


def _twice(file: SafetensorsFile, one: str, other: str) -> WeightsError:
    return WeightsError(
        f"{file.path} holds {one!r} and {other!r}, which are of one layer, and an adapter adapts a "
        "layer once; save the adapter again"
    )


def _read_part(
    file: SafetensorsFile,
    module: str,
    sides: Mapping[str, str],
    config: AdapterConfig,
    model: CausalLM,
    weight_map: WeightMap,
) -> tuple[str, LowRank]:
    """The path of the linear layer that a module of the base is or is part of, and its pair."""
    home, layer, placement = _find(file, module, model, weight_map)
    num_out, num_in = layer.weight.shape
    rows = placement.rows or slice(0, num_out)
    start, stop = rows.start, rows.stop
    rank = config.rank_of(module)
    wanted = {"A": (rank, num_in), "B": ((stop - start) // placement.repeats, rank)}
    for side, name in sides.items():
        info = file.tensors[name]
        if info.dtype not in _FLOATS:
            raise UnsupportedFormatError(
                f"{file.path}: {name!r} is stored as {str(info.dtype).removeprefix('torch.')}; "
                "save the adapter in float32, float16 or bfloat16"
            )
        if info.shape != wanted[side]:
            raise WeightsError(
                f"{file.path}: {name!r} is {info.shape} and should be {wanted[side]}, by the rank "
                f"of {CONFIG} and the base's own matrix; is it an adapter of this model?"
            )
    down, up = (_read(file, sides[side]) for side in "AB")
    up = arranged(up, placement.grouped, placement.repeats)
    return home, LowRank(start, stop, down, up, config.scale_of(module))


def _find(
    file: SafetensorsFile, module: str, model: CausalLM, weight_map: WeightMap
) -> tuple[str, Linear, Placement]:
    canonical = weight_map.canonical(f"{module}.weight")
    if canonical is None:
        raise WeightsError(
            f"{file.path} adapts {module!r}, which this model does not have; is it an adapter of "
            "this model?"
        )
    placement = weight_map.placements[canonical]
    home = placement.parameter.removesuffix(".weight")
    layer = model.get_submodule(home)
    if isinstance(layer, LatentMatrices):
        raise UnsupportedModelError(
            f"{file.path} adapts {module!r}, which expands the latents that all heads attend; kept "
            "multiplies it with queries and sums instead, where it runs no adapters. Merge the "
            "adapter into the checkpoint"
        )
    if not isinstance(layer, Linear) or layer is model.head or ".experts." in home:
        raise UnsupportedModelError(
            f"{file.path} adapts {module!r}, and kept runs adapters of the linear layers of "
            "attention and MLP alone, not of embeddings, the head, a router or experts"
        )
    return home, layer, placement


def _read(file: SafetensorsFile, name: str) -> Tensor:
    stored = file.read(name)
    kept = stored.dtype if stored.dtype == torch.bfloat16 else torch.float32
    found = stored.to(kept, copy=True)  # the file's mapping goes
    if not torch.isfinite(found).all():
        raise WeightsError(
            f"{file.path}: {name!r} holds numbers that are not finite; save the adapter again"
        )
    return found


def _digest(folder: Path) -> str:
    found = sha256()
    for name in (CONFIG, WEIGHTS):
        data = (folder / name).read_bytes()
        found.update(len(data).to_bytes(8, "little") + data)
    return found.hexdigest()
