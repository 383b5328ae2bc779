"""A small module with every kind of placement, its weight map and its checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from checkpoint_files import CONFIG, write_folder
from torch import Tensor, nn

from kept.models.checkpoint import Checkpoint
from kept.models.opening import open_checkpoint
from kept.models.weight_map import Placement, WeightMap
from kept.models.weights import StoredWeights

E, F, V = 6, 10, 20
CPU = torch.device("cpu")


def load_weights(
    module: nn.Module,
    checkpoint: Checkpoint,
    weight_map: WeightMap,
    *,
    dtype: torch.dtype,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """All of a checkpoint at once."""
    StoredWeights(
        module, checkpoint, weight_map, dtype=dtype, device=device, progress=progress
    ).place_all()


class Toy(nn.Module):
    """An embedding, one fused and one transposed matrix, and a head that may be tied."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        with torch.device("meta"):
            self.embedding = nn.Embedding(V, E)
            self.gate_up = nn.Linear(E, 2 * F)
            self.down = nn.Linear(F, E, bias=False)
            self.head = nn.Linear(E, V, bias=False)
        if tied:
            self.head.weight = self.embedding.weight


def toy_map(tied: bool = False) -> WeightMap:
    return WeightMap(
        placements={
            "model.embed.weight": Placement(
                "embedding.weight", config_fields=("vocab_size", "hidden_size")
            ),
            "model.gate.weight": Placement("gate_up.weight", slice(0, F)),
            "model.up.weight": Placement("gate_up.weight", slice(F, 2 * F)),
            "model.gate.bias": Placement("gate_up.bias", slice(0, F)),
            "model.up.bias": Placement("gate_up.bias", slice(F, 2 * F)),
            "model.down.weight": Placement("down.weight", transpose=True),
            "lm_head.weight": Placement("head.weight"),
        },
        optional=frozenset({"model.embed.weight", "lm_head.weight"}) if tied else frozenset(),
        ignored=(r"\.inv_freq$", r"^model\.mask"),
        prefixes=("model.",),
    )


def toy_tensors(dtype: torch.dtype = torch.float32, tied: bool = False) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "model.embed.weight": (V, E),
        "model.gate.weight": (F, E),
        "model.up.weight": (F, E),
        "model.gate.bias": (F,),
        "model.up.bias": (F,),
        "model.down.weight": (F, E),  # stored (in, out)
        "lm_head.weight": (V, E),
    }
    if tied:
        del shapes["lm_head.weight"]
    return {
        name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()
    }


def checkpoint_of(folder: Path, tensors: dict[str, Tensor], **config: Any) -> Checkpoint:
    return open_checkpoint(write_folder(folder, tensors, config={**CONFIG, **config}))


def load(
    folder: Path,
    tensors: dict[str, Tensor],
    *,
    tied: bool = False,
    dtype: torch.dtype = torch.float32,
    weight_map: WeightMap | None = None,
    **config: Any,
) -> Toy:
    module = Toy(tied)
    checkpoint = checkpoint_of(folder, tensors, **config)
    load_weights(module, checkpoint, weight_map or toy_map(tied), dtype=dtype, device=CPU)
    return module
