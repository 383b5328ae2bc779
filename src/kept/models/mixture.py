"""Models of the Llama family whose layers hold experts: Mixtral, Qwen 2 MoE and Qwen 3 MoE."""

from __future__ import annotations

from kept.models.experts import Experts
from kept.models.llama import Llama, llama_weight_map
from kept.models.mixture_config import MixtureConfig
from kept.models.weight_map import Placement, WeightMap

# What gate, up and down of an expert are called.
_NAMES = ("gate_proj", "up_proj", "down_proj")
_MIXTRAL_NAMES = ("w1", "w3", "w2")


class Mixture(Llama):
    """A Llama whose feed-forward layers hold experts."""

    def __init__(self, config: MixtureConfig) -> None:
        super().__init__(config)
        for layer, block in enumerate(self.blocks):
            if layer not in config.dense:
                block.mlp = Experts(config.hidden_size, config.experts)


def mixtral_weight_map(config: MixtureConfig) -> WeightMap:
    """Where the tensors of a Mixtral go."""
    return _weight_map(config, "block_sparse_moe", _MIXTRAL_NAMES, "intermediate_size")


def qwen_moe_weight_map(config: MixtureConfig) -> WeightMap:
    """Where the tensors of a Qwen 2 MoE or Qwen 3 MoE go."""
    return _weight_map(config, "mlp", _NAMES, "moe_intermediate_size")


def _weight_map(
    config: MixtureConfig, home: str, names: tuple[str, str, str], size_field: str
) -> WeightMap:
    """home: what a layer's experts are stored under."""
    llama = llama_weight_map(config)
    sparse = [i for i in range(config.num_layers) if i not in config.dense]
    replaced = tuple(f"model.layers.{i}.mlp." for i in sparse)
    placements = {k: v for k, v in llama.placements.items() if not k.startswith(replaced)}
    for layer in sparse:
        there, here = f"model.layers.{layer}.{home}", f"blocks.{layer}.mlp"
        placements |= _router(config, there, here)
        for number in range(config.experts.num_experts):
            placements |= _expert(
                f"{there}.experts.{number}", f"{here}.experts.{number}", names,
                config.experts.size, size_field,
            )  # fmt: skip
        if config.experts.shared_size:
            placements |= _expert(
                f"{there}.shared_expert", f"{here}.shared", names,
                config.experts.shared_size, "shared_expert_intermediate_size",
            )  # fmt: skip
    return WeightMap(placements, llama.optional, llama.ignored, llama.prefixes)


def _router(config: MixtureConfig, there: str, here: str) -> dict[str, Placement]:
    count, parameter = config.experts.num_experts, f"{here}.router.weight"
    fields = ("num_experts", "num_local_experts", "hidden_size")
    if not config.experts.shared_size:
        return {f"{there}.gate.weight": Placement(parameter, config_fields=fields)}
    return {
        f"{there}.gate.weight": Placement(parameter, slice(0, count), config_fields=fields),
        f"{there}.shared_expert_gate.weight": Placement(
            parameter, slice(count, count + 1), config_fields=fields
        ),
    }


def _expert(
    there: str, here: str, names: tuple[str, str, str], size: int, size_field: str
) -> dict[str, Placement]:
    gate, up, down = names
    fields, inner = (size_field, "hidden_size"), f"{here}.gate_up.weight"
    return {
        f"{there}.{gate}.weight": Placement(inner, slice(0, size), config_fields=fields),
        f"{there}.{up}.weight": Placement(inner, slice(size, 2 * size), config_fields=fields),
        f"{there}.{down}.weight": Placement(f"{here}.down.weight", config_fields=fields),
    }
