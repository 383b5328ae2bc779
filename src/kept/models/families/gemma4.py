"""Gemma 4: where the tensors of its text model go; what sees and hears is passed over by name."""

from __future__ import annotations

from kept.models.family import Family
from kept.models.gemma4 import Gemma4
from kept.models.gemma4_config import (
    Gemma4Config,
    read_gemma4_config,
    read_gemma4_text_config,
)
from kept.models.weight_map import Placement, WeightMap

_NORMS = {
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "attention_post_norm",
    "pre_feedforward_layernorm": "mlp_norm",
    "post_feedforward_layernorm": "mlp_post_norm",
}
# Layers that attend what others store may bring tensors for keys of their own, which are not used.
UNUSED = r"\.self_attn\.(k_proj|v_proj|k_norm|v_norm)\."
BESIDE = (r"(^|\.)(vision_tower|audio_tower|embed_vision|embed_audio)\.",)
WITHIN = ("model.language_model.", "language_model.model.", "language_model.")


def _text_weights(config: Gemma4Config) -> WeightMap:
    return _weights(config, "model.", ("model.",), ())


def _weights_beside(config: Gemma4Config) -> WeightMap:
    return _weights(config, "", WITHIN, BESIDE)


def _weights(
    config: Gemma4Config, prefix: str, prefixes: tuple[str, ...], ignored: tuple[str, ...]
) -> WeightMap:
    found = outer_tensors(config, prefix)
    for index in range(config.num_layers):
        found |= _layer(config, index, f"{prefix}layers.{index}.", f"blocks.{index}.")
    optional = {"lm_head.weight", f"{prefix}embed_tokens.weight"}
    return WeightMap(
        found,
        optional=frozenset(optional) if config.tied else frozenset(),
        ignored=(r"rotary_emb\.", UNUSED, *ignored),
        prefixes=prefixes,
    )


def outer_tensors(config: Gemma4Config, prefix: str) -> dict[str, Placement]:
    """Those of no layer."""
    vocabulary = ("vocab_size", "hidden_size")
    found = {
        f"{prefix}embed_tokens.weight": Placement("embedding.weight", config_fields=vocabulary),
        f"{prefix}norm.weight": Placement("norm.weight", config_fields=("hidden_size",)),
        "lm_head.weight": Placement("head.weight", config_fields=vocabulary),
    }
    if config.input_size:
        sizes = ("num_hidden_layers", "hidden_size_per_layer_input")
        for stored, here in (
            ("embed_tokens_per_layer", "inputs"),
            ("per_layer_model_projection", "inputs_projection"),
            ("per_layer_projection_norm", "inputs_norm"),
        ):
            found[f"{prefix}{stored}.weight"] = Placement(f"{here}.weight", config_fields=sizes)
    return found


def _layer(config: Gemma4Config, index: int, there: str, here: str) -> dict[str, Placement]:
    scale = {f"{there}layer_scalar": Placement(f"{here}scale", config_fields=("hidden_size",))}
    return scale | shared_tensors(config, index, there, here)


def shared_tensors(
    config: Gemma4Config, index: int, there: str, here: str, *, apart: bool = False
) -> dict[str, Placement]:
    """Those that a layer of a Gemma 3n has too. apart: gates and what they gate are two
    matrices."""
    layer, width = config.layers[index], ("hidden_size",)
    q, kv = config.num_heads * layer.width, layer.num_kv_heads * layer.width
    modules = dict(_NORMS)
    modules |= {"self_attn.o_proj": "attention.out", "mlp.down_proj": "mlp.down"}
    modules["self_attn.q_norm"] = "attention.q_norm"
    if layer.shares is None:
        modules["self_attn.k_norm"] = "attention.k_norm"
    if config.input_size:
        modules |= {
            "per_layer_input_gate": "layer_input.gate",
            "per_layer_projection": "layer_input.projection",
            "post_per_layer_input_norm": "layer_input.norm",
        }
    found = {}
    for stored, name in modules.items():
        found[f"{there}{stored}.weight"] = Placement(f"{here}{name}.weight", config_fields=width)
    for begin, name in ((0, "gate"), (layer.mlp_size, "up")):
        sizes = ("intermediate_size", "hidden_size")
        rows = None if apart else slice(begin, begin + layer.mlp_size)
        found[f"{there}mlp.{name}_proj.weight"] = Placement(
            f"{here}mlp.{name if apart else 'gate_up'}.weight", rows, config_fields=sizes
        )
    for kind in ("weight", "bias") if config.bias else ("weight",):
        found |= _heads(
            f"{there}self_attn.", f"{here}attention.qkv.{kind}", kind, q, kv, layer.equal
        )
        if layer.shares is not None:
            found.pop(f"{there}self_attn.k_proj.{kind}")
            found.pop(f"{there}self_attn.v_proj.{kind}", None)
    if config.bias:
        found[f"{there}self_attn.o_proj.bias"] = Placement(f"{here}attention.out.bias")
    return found


def _heads(
    there: str, parameter: str, kind: str, q: int, kv: int, equal: bool
) -> dict[str, Placement]:
    """Queries, keys and values; where values are keys, both are filled by these."""
    sizes = ("num_attention_heads", "num_key_value_heads", "head_dim", "global_head_dim")

    def rows(begin: int, end: int, repeats: int = 1) -> Placement:
        return Placement(parameter, slice(begin, end), config_fields=sizes, repeats=repeats)

    found = {f"{there}q_proj.{kind}": rows(0, q)}
    if equal:
        found[f"{there}k_proj.{kind}"] = rows(q, q + 2 * kv, repeats=2)
        return found
    found[f"{there}k_proj.{kind}"] = rows(q, q + kv)
    found[f"{there}v_proj.{kind}"] = rows(q + kv, q + 2 * kv)
    return found


FAMILIES = {
    "gemma4": Family("Gemma4ForConditionalGeneration", read_gemma4_config, Gemma4, _weights_beside),
    "gemma4_text": Family("Gemma4ForCausalLM", read_gemma4_text_config, Gemma4, _text_weights),
}
