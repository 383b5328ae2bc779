"""What config.json says of models of the Llama family whose layers hold experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from kept.errors import CheckpointError
from kept.models.experts import ExpertsConfig
from kept.models.fields import MAX_EXPERTS, Fields
from kept.models.llama import LAYER_TYPES, LlamaConfig, read_llama_config
from kept.ops import Routing

# The family whose attention each has, and what transformers' classes take for fields that
# config.json leaves out.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "mixtral": {
        "model_type": "mistral",
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "sliding_window": None,
        "num_experts_per_tok": 2,
    },
    "qwen2_moe": {
        "model_type": "qwen2",
        "num_key_value_heads": 16,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
    },
    "qwen3_moe": {
        "model_type": "qwen3",
        "num_key_value_heads": 4,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
    },
}
_NUM_EXPERTS: Mapping[str, int] = {"mixtral": 8, "qwen2_moe": 60, "qwen3_moe": 128}


@dataclass(frozen=True)
class MixtureConfig(LlamaConfig):
    """A Llama whose feed-forward layers hold experts, but for those in `dense`."""

    experts: ExpertsConfig
    dense: frozenset[int]


def read_mixture_config(config: dict[str, Any]) -> MixtureConfig:
    """Read config.json of model types mixtral, qwen2_moe and qwen3_moe."""
    family = str(config.get("model_type"))
    defaults = _DEFAULTS[family]
    given = {**defaults, **config}
    of = Fields(given)
    llama = _read_llama(family, {**given, "model_type": defaults["model_type"]})
    return MixtureConfig(
        **{each.name: getattr(llama, each.name) for each in fields(llama)},
        experts=_experts(of, family, llama),
        dense=_dense(of, family, llama.num_layers),
    )


def _read_llama(family: str, given: dict[str, Any]) -> LlamaConfig:
    """The attention's half."""
    of = Fields(given)
    if family == "mixtral":
        return read_llama_config(given)
    if not of.has("head_dim"):
        heads = of.integer("num_attention_heads")
        given["head_dim"] = max(of.integer("hidden_size") // heads, 1)
    llama = read_llama_config({**given, "use_sliding_window": False})
    windows = _windows(of, family, llama.num_layers)
    if family == "qwen2_moe":
        return replace(llama, windows=windows, qkv_bias=of.flag("qkv_bias", True))
    return replace(llama, windows=windows)


def _windows(of: Fields, family: str, layers: int) -> tuple[int | None, ...]:
    none = of.given("sliding_window") and not of.has("sliding_window")
    if none or not of.flag("use_sliding_window", False):
        return (None,) * layers
    window = of.integer("sliding_window", 4096)
    if family == "qwen3_moe":
        return (window,) * layers
    types = of.strings("layer_types", layers, choices=LAYER_TYPES)
    if types is not None:
        return tuple(window if t == "sliding_attention" else None for t in types)
    most = of.integer("max_window_layers", 28, minimum=0)
    # Every other layer, beginning with the first.
    return tuple(window if i % 2 == 0 and i < most else None for i in range(layers))


def _experts(of: Fields, family: str, llama: LlamaConfig) -> ExpertsConfig:
    is_mixtral = family == "mixtral"
    count = num_experts(of, _NUM_EXPERTS[family])
    top_k = read_top_k(of, count)
    return ExpertsConfig(
        num_experts=count,
        size=llama.mlp_size if is_mixtral else of.integer("moe_intermediate_size"),
        routing=Routing(top_k, is_mixtral or of.flag("norm_topk_prob", False)),
        activation=llama.activation,
        shared_size=of.integer("shared_expert_intermediate_size") if family == "qwen2_moe" else 0,
    )


def num_experts(of: Fields, default: int) -> int:
    """How many experts a layer holds; transformers knows the field by two names."""
    name = "num_experts" if of.has("num_experts") else "num_local_experts"
    return of.integer(name, default, maximum=MAX_EXPERTS)


def read_top_k(of: Fields, count: int, default: int | None = None) -> int:
    """To how many of `count` experts a token goes."""
    top_k = of.integer("num_experts_per_tok", default)
    if top_k > count:
        raise CheckpointError(
            f"config.json has num_experts_per_tok = {top_k}, more than the {count} experts of a "
            "layer; a token goes to each of its experts once"
        )
    return top_k


def _dense(of: Fields, family: str, layers: int) -> frozenset[int]:
    """Layers that hold one feed-forward network and no experts."""
    if family == "mixtral":
        return frozenset()
    step = of.integer("decoder_sparse_step", 1)
    named = of.integers("mlp_only_layers", maximum=layers - 1)
    return frozenset(i for i in range(layers) if i in named or (i + 1) % step)
