"""What config.json says of a model of the Gemma family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kept.errors import CheckpointError
from kept.models.fields import MAX_HEAD, MAX_LAYERS, Fields
from kept.models.llama import LAYER_TYPES, LlamaConfig
from kept.models.rope_config import RopeConfig, read_rope
from kept.ops import ACTIVATIONS

LOCAL = "sliding_attention"

# What transformers' classes take for fields that config.json leaves out; so do published configs.
_DEFAULTS = {
    "gemma": {
        "vocab_size": 256000,
        "hidden_size": 3072,
        "intermediate_size": 24576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "max_position_embeddings": 8192,
    },
    "gemma2": {
        "vocab_size": 256000,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 8192,
    },
    "gemma3_text": {
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131072,
    },
}
_PATTERN = {"gemma2": 2, "gemma3_text": 6}  # every so many layers one sees the whole sequence
_THETA, _LOCAL_THETA = 1e6, 1e4  # Gemma 3's


@dataclass(frozen=True)
class GemmaConfig(LlamaConfig):
    """A Llama's config, and what this family has beside it.

    scale: what scores are multiplied by. score_cap, logit_cap: soft caps, None: none. post_norms:
    whether attention and MLP are normed before their residual sums. local_rope: of the layers that
    have one of their own. bases: (L,) which of `ropes` each layer rotates with.
    """

    scale: float
    score_cap: float | None
    logit_cap: float | None
    post_norms: bool
    local_rope: RopeConfig | None
    bases: tuple[int, ...]

    @property
    def ropes(self) -> tuple[RopeConfig, ...]:
        """The rotary embeddings there are, that of the windowed layers last."""
        return (self.rope,) if self.local_rope is None else (self.rope, self.local_rope)


def read_gemma_config(config: dict[str, Any]) -> GemmaConfig:
    """Read config.json of model types gemma, gemma2 and gemma3_text."""
    return _read(Fields(config), str(config["model_type"]))


def read_gemma3_config(config: dict[str, Any]) -> GemmaConfig:
    """Read config.json of model type gemma3, which also sees images: its text model alone."""
    outer = Fields(config)
    fields = outer.text_config()
    return _read(fields, "gemma3_text", tied=outer.flag("tie_word_embeddings", True))


def _read(fields: Fields, family: str, tied: bool | None = None) -> GemmaConfig:
    fields.refuse(
        "use_bidirectional_attention",
        False,
        "where tokens see those after them, keys that are kept would be wrong",
    )
    if family == "gemma3_text":
        fields.refuse(
            "attn_logit_softcapping",
            None,
            "no Gemma 3 caps its scores, and transformers ignores it",
        )
    default = _DEFAULTS[family]
    heads = fields.integer("num_attention_heads", default["num_attention_heads"])
    kv_heads = fields.integer("num_key_value_heads", default["num_key_value_heads"])
    if heads % kv_heads:
        raise CheckpointError(
            f"config.json has num_attention_heads = {heads}, which num_key_value_heads = "
            f"{kv_heads} does not divide"
        )
    head_dim = fields.integer("head_dim", 256, maximum=MAX_HEAD)
    layers = fields.integer("num_hidden_layers", default["num_hidden_layers"], maximum=MAX_LAYERS)
    context = fields.integer("max_position_embeddings", default["max_position_embeddings"])
    bias = fields.flag("attention_bias", False)
    types = _layer_types(fields, family, layers)
    window = None if _is_null(fields, "sliding_window") else fields.integer("sliding_window", 4096)
    rope, local_rope, stretched = _read_ropes(fields, family, head_dim, context)
    scalar = fields.number("query_pre_attn_scalar", 256) if family != "gemma" else head_dim
    return GemmaConfig(
        vocab_size=fields.integer("vocab_size", default["vocab_size"]),
        hidden_size=fields.integer("hidden_size", default["hidden_size"]),
        mlp_size=fields.integer("intermediate_size", default["intermediate_size"]),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        context=stretched,
        rope=rope,
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        activation=_activation(fields, family),
        tied=fields.flag("tie_word_embeddings", True) if tied is None else tied,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=False,
        qk_norm=family == "gemma3_text",
        windows=tuple(window if t == LOCAL else None for t in types),
        scale=scalar**-0.5,
        score_cap=_cap(fields, "attn_logit_softcapping", family, 50.0),
        logit_cap=_cap(fields, "final_logit_softcapping", family, 30.0),
        post_norms=family != "gemma",
        local_rope=local_rope,
        bases=tuple(int(local_rope is not None and t == LOCAL) for t in types),
    )


def _is_null(fields: Fields, name: str) -> bool:
    return fields.given(name) and not fields.has(name)


def _activation(fields: Fields, family: str) -> str:
    default = "gelu_pytorch_tanh"
    if family != "gemma":
        return fields.choice("hidden_activation", default, ACTIVATIONS)
    found = fields.choice("hidden_act", default, ACTIVATIONS)
    # The first configs said gelu where the models were trained with its approximation.
    return default if found == "gelu" else found


def _cap(fields: Fields, name: str, family: str, default: float) -> float | None:
    """Gemma 2's default is a cap, and null none."""
    if family == "gemma" or not fields.has(name):
        return None if family != "gemma2" or fields.given(name) else default
    return fields.number(name)


def _layer_types(fields: Fields, family: str, layers: int) -> tuple[str, ...]:
    whole, local = LAYER_TYPES
    if family == "gemma":
        return (whole,) * layers
    types = fields.strings("layer_types", layers, choices=LAYER_TYPES)
    if types is not None:
        return types
    pattern = _PATTERN[family]
    if family == "gemma3_text":
        pattern = fields.integer("sliding_window_pattern", pattern)
    return tuple(local if (i + 1) % pattern else whole for i in range(layers))


def _read_ropes(
    fields: Fields, family: str, head_dim: int, context: int
) -> tuple[RopeConfig, RopeConfig | None, int]:
    """The rotary embeddings of whole and of windowed layers, and the context.

    Gemma 3 names them `rope_theta`, `rope_scaling` and `rope_local_base_freq`, or since
    transformers 5 `rope_parameters` by type of layer. Its context counts the scaling already.
    """
    if family != "gemma3_text":
        rope, stretched = read_rope(fields, head_dim, context)
        return rope, None, stretched
    by_type = fields.nested("rope_parameters") or Fields({})
    scaling = by_type.nested("full_attention") or Fields({})
    scaling = (fields.nested("rope_scaling") or Fields({})).over(scaling)
    rope, _ = read_rope(fields, head_dim, context, inner=scaling, default_theta=_THETA)
    base = Fields({"rope_theta": fields.number("rope_local_base_freq", _LOCAL_THETA)})
    inner = (by_type.nested(LOCAL) or Fields({})).over(base)
    local, _ = read_rope(fields, head_dim, context, inner=inner)
    return rope, local, context
