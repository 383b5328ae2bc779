"""How the checkpoints of a family are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kept.models.causal_lm import CausalLM
from kept.models.stacked_experts import ExpertNames
from kept.models.weight_map import WeightMap


@dataclass(frozen=True, slots=True)
class Family:
    """How checkpoints of one `model_type` are read.

    architecture: what transformers calls the model; aliases: what it or others called it once.
    expert_names: of layers that hold experts, where stacked ones are to be read. quantized_as: by
    `quant_method`, what it can be stored as.
    """

    architecture: str
    read_config: Callable[[dict[str, Any]], Any]
    build: Callable[[Any], CausalLM]
    weight_map: Callable[[Any], WeightMap]
    aliases: tuple[str, ...] = ()
    expert_names: ExpertNames | None = None
    quantized_as: tuple[str, ...] = ()
