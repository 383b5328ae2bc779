"""What config.json says of DeepSeek V2 and V3 (V3.1, R1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kept.cache import KVShape
from kept.errors import CheckpointError
from kept.models.experts import ExpertsConfig
from kept.models.fields import MAX_EXPERTS, MAX_HEAD, MAX_LAYERS, Fields
from kept.models.mixture_config import read_top_k
from kept.models.rope_config import RopeConfig, read_rope
from kept.ops import ACTIVATIONS, LatentSpec, Routing

# What transformers' classes take for fields that config.json leaves out. A flag of null is off.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "deepseek_v2": {
        "max_position_embeddings": 2048,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "first_k_dense_replace": 0,
        "moe_intermediate_size": 1407,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "routed_scaling_factor": 1.0,
    },
    "deepseek_v3": {
        "max_position_embeddings": 4096,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "first_k_dense_replace": 3,
        "moe_intermediate_size": 2048,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "routed_scaling_factor": 2.5,
        "n_group": 8,
        "topk_group": 4,
        "norm_topk_prob": True,
        "rope_interleave": True,
    },
}
_LATENT_EPS = 1e-6  # whatever `rms_norm_eps` is


@dataclass(frozen=True, kw_only=True)
class DeepseekConfig:
    """A decoder of latent attention and experts.

    latent: how rows fall into heads. value_dim: numbers of a head behind attention. query_rank: of
    the numbers that queries are made of (`q_lora_rank`); None: of rows as they are. scale: of
    scores. dense: layers that hold one feed-forward network and no experts. shared_size: of the
    experts that all rows go to, as one; 0: there are none. extra_layers: those that config.json
    counts behind the model's own (`num_nextn_predict_layers`), whose weights are not read.
    """

    vocab_size: int
    hidden_size: int
    mlp_size: int
    num_layers: int
    num_heads: int
    context: int
    rope: RopeConfig
    norm_eps: float
    activation: str
    tied: bool
    attention_bias: bool
    latent: LatentSpec
    value_dim: int
    query_rank: int | None
    scale: float
    experts: ExpertsConfig
    shared_size: int
    dense: frozenset[int]
    extra_layers: int
    mlp_bias: bool = False

    @property
    def kv_shapes(self) -> tuple[KVShape, ...]:
        """What each layer stores per token: a latent and what turns, for all heads and as the value
        too."""
        heads = self.latent.heads
        shape = KVShape(1, heads.head_dim, value_dim=self.latent.latent, values_in_keys=True)
        return (shape,) * self.num_layers


def read_deepseek_config(config: dict[str, Any]) -> DeepseekConfig:
    """Read config.json of model types deepseek_v2 and deepseek_v3."""
    family = str(config["model_type"])
    # A rank of null says that queries are made of rows as they are.
    of = Fields({**_DEFAULTS[family], **config})
    _refuse(of, family)
    heads = of.integer("num_attention_heads")
    plain, turning = (
        of.integer(name, maximum=MAX_HEAD) for name in ("qk_nope_head_dim", "qk_rope_head_dim")
    )
    rope, context = read_rope(of, turning, of.integer("max_position_embeddings"))
    layers = of.integer("num_hidden_layers", maximum=MAX_LAYERS)
    activation = of.choice("hidden_act", "silu", ACTIVATIONS)
    experts = _experts(of, family, activation)
    shared = of.integer("n_shared_experts", 0, minimum=0, maximum=MAX_EXPERTS)
    first = of.integer("first_k_dense_replace", 0, minimum=0)
    return DeepseekConfig(
        vocab_size=of.integer("vocab_size"),
        hidden_size=of.integer("hidden_size"),
        mlp_size=of.integer("intermediate_size"),
        num_layers=layers,
        num_heads=heads,
        context=context,
        rope=rope,
        norm_eps=of.number("rms_norm_eps", 1e-6),
        activation=activation,
        tied=of.flag("tie_word_embeddings", False),
        attention_bias=of.flag("attention_bias", False),
        latent=LatentSpec(
            num_heads=heads,
            latent=of.integer("kv_lora_rank", maximum=MAX_HEAD),
            turning=turning,
            plain=plain,
            norm_eps=_LATENT_EPS,
            neighbours=family == "deepseek_v2" or of.flag("rope_interleave", False),
        ),
        value_dim=of.integer("v_head_dim", maximum=MAX_HEAD),
        query_rank=of.integer("q_lora_rank") if of.has("q_lora_rank") else None,
        scale=_scale(of, plain + turning, rope),
        experts=experts,
        shared_size=shared * experts.size,
        dense=frozenset(range(min(first, layers))),
        extra_layers=of.integer("num_nextn_predict_layers", 1, minimum=0, maximum=MAX_LAYERS),
    )


def _refuse(of: Fields, family: str) -> None:
    of.refuse("moe_layer_freq", 1, "every layer behind the first ones holds experts")
    of.refuse("mlp_bias", False, "feed-forward networks of this family have no biases")
    if family == "deepseek_v2":
        of.refuse("scoring_func", "softmax", "experts of V2 are weighed by a softmax")
        of.refuse(
            "norm_topk_prob", False,
            "DeepSeek's own code and transformers' read it in two ways",
        )  # fmt: skip
    else:
        of.refuse("scoring_func", "sigmoid", "experts of V3 are weighed by sigmoids")
        of.refuse("topk_method", "noaux_tc", "experts of V3 are chosen with a bias")


def _scale(of: Fields, width: int, rope: RopeConfig) -> float:
    """YaRN's temperature, where all numbers of a head take it on (`mscale_all_dim`)."""
    inner = of.nested("rope_scaling") or of.nested("rope_parameters") or Fields({})
    scale: float = width**-0.5
    if rope.type == "default" or not inner.has("mscale_all_dim"):
        return scale
    by = inner.number("mscale_all_dim", positive=False)
    if by and rope.factor > 1:
        scale *= (0.1 * by * math.log(rope.factor) + 1.0) ** 2
    return scale


def _experts(of: Fields, family: str, activation: str) -> ExpertsConfig:
    count = of.integer("n_routed_experts", maximum=MAX_EXPERTS)
    is_v3 = family == "deepseek_v3"
    groups, top_groups = 1, 1
    methods = ("noaux_tc",) if is_v3 else ("greedy", "group_limited_greedy")
    if of.choice("topk_method", methods[0], methods) != "greedy":
        groups, top_groups = of.integer("n_group"), of.integer("topk_group")
    top_k = read_top_k(of, count)
    _check_groups(count, groups, top_groups, top_k, best=2 if is_v3 else 1)
    routing = Routing(
        top_k,
        is_v3 and of.flag("norm_topk_prob", False),
        "sigmoid" if is_v3 else "softmax",
        of.number("routed_scaling_factor"),
        groups,
        top_groups,
        2 if is_v3 and groups > 1 else 1,
    )
    return ExpertsConfig(count, of.integer("moe_intermediate_size"), routing, activation)


def _check_groups(count: int, groups: int, top_groups: int, top_k: int, best: int) -> None:
    if count % groups or (groups > 1 and count // groups < best):
        raise CheckpointError(
            f"config.json has n_group = {groups}, and {count} experts do not lie in so many groups "
            f"of one size, {best} or more in each"
        )
    if top_groups > groups or top_k > top_groups * (count // groups):
        raise CheckpointError(
            f"config.json has topk_group = {top_groups} of {groups} groups of {count // groups} "
            f"experts; a token goes to num_experts_per_tok = {top_k} of these"
        )
