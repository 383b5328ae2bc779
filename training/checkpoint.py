"""Resumable checkpoints: safetensors for the tensors, JSON for the rest, replaced atomically."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from model import Llama, ModelShape
from safetensors.torch import load_file, save_file
from torch import Tensor


@dataclass
class Progress:
    """Where a run stands: counters, training seconds, and the place in the data."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    group: int = 0
    row_in_group: int = 0
    length: int = 0
    smooth_loss: float = 0.0


def _optimizer_tensors(model: Llama, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Optimizer state by `parameter|field`."""
    names: dict[object, str] = {p: name for name, p in model.named_parameters()}
    tensors: dict[str, Tensor] = {}
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            for field, value in state.items():
                tensors[f"{names[parameter]}|{field}"] = value.detach().clone().contiguous()
    return tensors


def save(
    folder: Path, model: Llama, optimizers: list[torch.optim.Optimizer], progress: Progress
) -> None:
    """Replace the checkpoint in `folder`; an interruption leaves the old or the new one whole."""
    fresh, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    weights = {n: p.detach().clone().contiguous() for n, p in model.named_parameters()}
    save_file(weights, fresh / "model.safetensors")
    save_file(_optimizer_tensors(model, optimizers), fresh / "optimizer.safetensors")
    state = {"shape": model.shape.as_dict(), "progress": asdict(progress)}
    (fresh / "state.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def recover(folder: Path) -> None:
    """Put the previous checkpoint back if a replacement was cut between its two renames."""
    old = folder.with_name(folder.name + ".old")
    if not folder.exists() and old.exists():
        old.rename(folder)


def load_model(folder: Path) -> Llama:
    """The model of a checkpoint, in fp32."""
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    model = Llama(ModelShape(**state["shape"]))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model


def restore(folder: Path, model: Llama, optimizers: list[torch.optim.Optimizer]) -> Progress:
    """Load weights and optimizer state in place, and return where the run stood."""
    model.load_state_dict(load_file(folder / "model.safetensors"))
    parameters = dict(model.named_parameters())
    owner = {p: o for o in optimizers for g in o.param_groups for p in g["params"]}
    for key, value in load_file(folder / "optimizer.safetensors").items():
        name, field = key.split("|")
        parameter = parameters[name]
        owner[parameter].state[parameter][field] = value.to(parameter.device)
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return Progress(**state["progress"])
