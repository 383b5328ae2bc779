"""Where the tensors of a DeepSeek go."""

from __future__ import annotations

from dataclasses import replace

from kept.models.deepseek_config import DeepseekConfig
from kept.models.mixture import expert_placements
from kept.models.stacked_experts import ExpertNames
from kept.models.weight_map import Placement, WeightMap

DEEPSEEK_NAMES = ExpertNames("mlp", ("gate_proj", "up_proj", "down_proj"))


def deepseek_weight_map(config: DeepseekConfig) -> WeightMap:
    """Where the tensors of a DeepSeek V2 or V3 go. Those of layers behind its own, which predict
    several tokens at once, are not read."""
    vocabulary, names = ("vocab_size", "hidden_size"), DEEPSEEK_NAMES.parts
    placements = {
        "model.embed_tokens.weight": Placement("embedding.weight", config_fields=vocabulary),
        "model.norm.weight": Placement("norm.weight", config_fields=("hidden_size",)),
        "lm_head.weight": Placement("head.weight", config_fields=vocabulary),
    }
    dense = replace(config.experts, size=config.mlp_size)
    shared = replace(config.experts, size=config.shared_size)
    for layer in range(config.num_layers):
        there, here = f"model.layers.{layer}", f"blocks.{layer}"
        placements |= {
            f"{there}.input_layernorm.weight": Placement(f"{here}.attention_norm.weight"),
            f"{there}.post_attention_layernorm.weight": Placement(f"{here}.mlp_norm.weight"),
            **_attention(config, f"{there}.self_attn", f"{here}.attention"),
        }
        if layer in config.dense:
            placements |= expert_placements(
                f"{there}.mlp", f"{here}.mlp", names, dense, "intermediate_size"
            )
            continue
        placements |= _experts(config, f"{there}.mlp", f"{here}.mlp")
        if config.shared_size:
            placements |= expert_placements(
                f"{there}.mlp.shared_experts", f"{here}.shared", names, shared,
                "moe_intermediate_size",
            )  # fmt: skip
    first, count = config.num_layers, config.extra_layers
    extra = tuple(rf"(^|\.)layers\.{layer}\." for layer in range(first, first + count))
    tied = frozenset({"lm_head.weight", "model.embed_tokens.weight"})
    return WeightMap(
        placements,
        optional=tied if config.tied else frozenset(),
        ignored=(r"rotary_emb\.inv_freq$", *extra),
        prefixes=("model.",),
    )


def _attention(config: DeepseekConfig, there: str, here: str) -> dict[str, Placement]:
    ranks = ("q_lora_rank", "kv_lora_rank", "hidden_size")
    heads = ("num_attention_heads", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", *ranks)
    parts = {
        "kv_a_proj_with_mqa": "kv_a",
        "kv_a_layernorm": "kv_norm",
        "kv_b_proj": "kv_b",
        "o_proj": "out",
    }
    if config.query_rank is None:
        parts["q_proj"] = "q"
    else:
        parts |= {"q_a_proj": "q_a", "q_a_layernorm": "q_norm", "q_b_proj": "q"}
    biased = {"q_a_proj", "kv_a_proj_with_mqa", "o_proj"} if config.attention_bias else set()
    return {
        f"{there}.{name}.{kind}": Placement(f"{here}.{part}.{kind}", config_fields=heads)
        for name, part in parts.items()
        for kind in (("weight", "bias") if name in biased else ("weight",))
    }


def _experts(config: DeepseekConfig, there: str, here: str) -> dict[str, Placement]:
    fields, experts = ("n_routed_experts", "hidden_size"), config.experts
    found = {f"{there}.gate.weight": Placement(f"{here}.router.weight", config_fields=fields)}
    if experts.routing.scoring == "sigmoid":
        found[f"{there}.gate.e_score_correction_bias"] = Placement(
            f"{here}.router.choice_bias", config_fields=fields
        )
    for number in range(experts.num_experts):
        found |= expert_placements(
            f"{there}.experts.{number}", f"{here}.experts.{number}", DEEPSEEK_NAMES.parts, experts,
            "moe_intermediate_size",
        )  # fmt: skip
    return found
