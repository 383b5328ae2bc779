"""Models of the Llama family whose layers hold experts: Mixtral, Qwen 2 MoE and Qwen 3 MoE."""

from __future__ import annotations

from dataclasses import replace

from kept.models.experts import Experts, ExpertsConfig
from kept.models.llama import Llama, llama_weight_map
from kept.models.mixture_config import MixtureConfig
from kept.models.stacked_experts import ExpertNames
from kept.models.weight_map import Placement, WeightMap

MIXTRAL_NAMES = ExpertNames("block_sparse_moe", ("w1", "w3", "w2"))
QWEN_MOE_NAMES = ExpertNames("mlp", ("gate_proj", "up_proj", "down_proj"))


class Mixture(Llama):
    """A Llama whose feed-forward layers hold experts."""

    def __init__(self, config: MixtureConfig) -> None:
        super().__init__(config)
        for layer, block in enumerate(self.blocks):
            if layer not in config.dense:
                block.mlp = Experts(config.hidden_size, config.experts)


def mixtral_weight_map(config: MixtureConfig) -> WeightMap:
    """Where the tensors of a Mixtral go."""
    return _weight_map(config, MIXTRAL_NAMES, "intermediate_size")


def qwen_moe_weight_map(config: MixtureConfig) -> WeightMap:
    """Where the tensors of a Qwen 2 MoE or Qwen 3 MoE go."""
    return _weight_map(config, QWEN_MOE_NAMES, "moe_intermediate_size")


def _weight_map(config: MixtureConfig, names: ExpertNames, size_field: str) -> WeightMap:
    llama = llama_weight_map(config)
    sparse = [i for i in range(config.num_layers) if i not in config.dense]
    replaced = tuple(f"model.layers.{i}.mlp." for i in sparse)
    placements = {k: v for k, v in llama.placements.items() if not k.startswith(replaced)}
    for layer in sparse:
        there, here = f"model.layers.{layer}.{names.home}", f"blocks.{layer}.mlp"
        placements |= _router(config, there, here)
        for number in range(config.experts.num_experts):
            placements |= expert_placements(
                f"{there}.experts.{number}", f"{here}.experts.{number}", names.parts,
                config.experts, size_field,
            )  # fmt: skip
        if config.experts.shared_size:
            shared = replace(config.experts, size=config.experts.shared_size)
            placements |= expert_placements(
                f"{there}.shared_expert", f"{here}.shared", names.parts, shared,
                "shared_expert_intermediate_size",
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


def expert_placements(
    there: str, here: str, names: tuple[str, str, str], config: ExpertsConfig, size_field: str
) -> dict[str, Placement]:
    """Where an expert's tensors, stored under `there`, go under `here`.

    names: of gate, up and down. size_field: of config.json, which says how large it is.
    """
    gate, up, down = names
    size, fields, found = config.size, (size_field, "hidden_size"), {}
    for kind in ("weight", "bias") if config.biased else ("weight",):
        inner, outer = f"{here}.gate_up.{kind}", f"{here}.down.{kind}"
        for name, rows in ((gate, slice(0, size)), (up, slice(size, 2 * size))):
            found[f"{there}.{name}.{kind}"] = Placement(inner, rows, config_fields=fields)
        found[f"{there}.{down}.{kind}"] = Placement(outer, config_fields=fields)
    return found
