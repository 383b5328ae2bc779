"""config.json of the model in a GGUF file, out of the file's metadata.

Keys are llama.cpp's (gguf-py/gguf/constants.py), and so is what its loader takes for those that are
left out (src/llama-model.cpp): transformers reads fewer of them and would compute another model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kept.errors import CheckpointError, UnsupportedModelError, WeightsError
from kept.gguf import GGUFHeader
from kept.models.fields import Fields
from kept.models.gguf_rope import rope_scaling
from kept.models.registry import FAMILIES

EMBEDDING, HEAD = "token_embd.weight", "output.weight"

# transformers' name of each architecture, and what only it has.
_MODEL_TYPES: Mapping[str, str] = {
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "gpt-oss": "gpt_oss",
    "llama": "llama",
    "phi3": "phi3",
    "qwen2": "qwen2",
    "qwen2moe": "qwen2_moe",
    "qwen3": "qwen3",
    "qwen3moe": "qwen3_moe",
}


def gguf_config(header: GGUFHeader) -> dict[str, Any]:
    """What config.json would say of the model.

    Raises UnsupportedModelError for an architecture or a feature that kept does not run,
    CheckpointError for metadata that lacks or contradicts what it needs.
    """
    architecture = header.metadata.get("general.architecture")
    known = sorted(name for name, kind in _MODEL_TYPES.items() if kind in FAMILIES)
    if not isinstance(architecture, str) or architecture not in known:
        raise UnsupportedModelError(
            f"{header.path} holds a model of architecture {str(architecture)[:100]!r}, and of GGUF "
            f"files kept runs {', '.join(known)}. The model it was made from may be "
            "of another family that kept runs, as safetensors."
        )
    model_type = _MODEL_TYPES[architecture]
    if EMBEDDING not in header.tensors:
        raise WeightsError(f"{header.path} holds no tensor {EMBEDDING!r}; download it again.")
    own = _Own(header, architecture)
    if own.fields.integer("expert_count", 0, minimum=0) and architecture == "llama":
        model_type = "mixtral"
    config = _dense(own, model_type)
    if architecture in _MORE:
        config |= _MORE[architecture](own, config)
    _check(header, config)
    return config


def _check(header: GGUFHeader, config: Mapping[str, Any]) -> None:
    """Raise what the family has against it, and say where it comes from."""
    try:
        FAMILIES[config["model_type"]].read_config(dict(config))
    except CheckpointError as error:
        raise type(error)(
            f"{header.path.name}, whose metadata is read as a config.json: {error}"
        ) from error


class _Own:
    """The metadata of an architecture, by its keys without the prefix."""

    def __init__(self, header: GGUFHeader, architecture: str) -> None:
        self.header, self.architecture = header, architecture
        prefix = f"{architecture}."
        own = {
            key.removeprefix(prefix): value
            for key, value in header.metadata.items()
            if key.startswith(prefix)
        }
        self.fields = Fields(own, f"the metadata {architecture}.* of {header.path.name}")

    def expert_size(self) -> int:
        """How wide an expert is."""
        size = self.fields.integer("expert_feed_forward_length", 0, minimum=0)
        if size:
            return size
        used = self.fields.integer("expert_used_count")
        return max(self.fields.integer("feed_forward_length") // used, 1)

    def has(self, tensor: str) -> bool:
        return tensor in self.header.tensors


def _dense(own: _Own, model_type: str) -> dict[str, Any]:
    """The fields that all of these families share."""
    fields = own.fields
    if FAMILIES[model_type].expert_names is None:
        fields.refuse("expert_count", 0, "experts of this architecture are of another family")
    hidden, heads = fields.integer("embedding_length"), fields.integer("attention.head_count")
    head_dim = fields.integer("attention.key_length", max(hidden // heads, 1))
    fields.refuse("attention.value_length", head_dim, "keys and values are of one length")
    if model_type != "phi3":
        fields.refuse("rope.dimension_count", head_dim, "heads of this family are rotated whole")
    config: dict[str, Any] = {
        "model_type": model_type,
        "architectures": [FAMILIES[model_type].architecture],
        "vocab_size": own.header.tensors[EMBEDDING].shape[0],
        "hidden_size": hidden,
        "intermediate_size": fields.integer(
            "feed_forward_length", own.expert_size() if own.fields.has("expert_count") else None
        ),
        "num_hidden_layers": fields.integer("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": fields.integer("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": fields.integer("context_length"),
        "rms_norm_eps": fields.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": fields.number("rope.freq_base", 10000.0),
        "tie_word_embeddings": not own.has(HEAD),
        "dtype": _dtype(own.header),
    }
    scaling = rope_scaling(own.header, fields, config)
    return config if scaling is None else {**config, "rope_scaling": scaling}


def _dtype(header: GGUFHeader) -> str:
    """What the matrices are stored in; bfloat16 for blocks, whose scales are of 16 bits."""
    matrices = [tensor for tensor in header.tensors.values() if len(tensor.shape) > 1]
    names = {tensor.type.name for tensor in matrices}
    for name, dtype in (("BF16", "bfloat16"), ("F16", "float16")):
        if name in names and all(tensor.type.is_plain for tensor in matrices):
            return dtype
    return "float32" if names == {"F32"} else "bfloat16"


def _llama(own: _Own, config: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "attention_bias": own.has("blk.0.attn_q.bias"),
        "mlp_bias": own.has("blk.0.ffn_down.bias"),
    }
    if config["model_type"] == "mixtral":
        return _counts(own, "num_local_experts")
    if own.fields.has("attention.sliding_window"):
        found = {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
        found["sliding_window"] = own.fields.integer("attention.sliding_window")
    return found


def _qwen3(own: _Own, _: Mapping[str, Any]) -> dict[str, Any]:
    return {"attention_bias": own.has("blk.0.attn_q.bias")}


def _counts(own: _Own, name: str) -> dict[str, Any]:
    return {
        name: own.fields.integer("expert_count"),
        "num_experts_per_tok": own.fields.integer("expert_used_count"),
    }


def _qwen2moe(own: _Own, config: Mapping[str, Any]) -> dict[str, Any]:
    shared = own.fields.integer("expert_shared_feed_forward_length", config["intermediate_size"])
    return {
        **_counts(own, "num_experts"),
        "moe_intermediate_size": own.expert_size(),
        "shared_expert_intermediate_size": shared,
        "norm_topk_prob": False,
    }


def _qwen3moe(own: _Own, config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **_qwen3(own, config),
        **_counts(own, "num_experts"),
        "moe_intermediate_size": own.expert_size(),
        "norm_topk_prob": True,
    }


def _gpt_oss(own: _Own, config: Mapping[str, Any]) -> dict[str, Any]:
    scaling = dict(config.get("rope_scaling") or {"rope_type": "default"})
    return {
        **_counts(own, "num_local_experts"),
        "intermediate_size": own.expert_size(),
        "sliding_window": own.fields.integer("attention.sliding_window"),
        # As it was trained; where a corner of the ramp falls is not rounded.
        "rope_scaling": {**scaling, "truncate": False},
    }


def _phi3(own: _Own, config: Mapping[str, Any]) -> dict[str, Any]:
    rotated = own.fields.integer("rope.dimension_count", config["head_dim"])
    window = own.fields.integer("attention.sliding_window", 0, minimum=0)
    return {
        "partial_rotary_factor": rotated / config["head_dim"],
        "sliding_window": window or None,
        "original_max_position_embeddings": own.fields.integer(
            "rope.scaling.original_context_length", config["max_position_embeddings"]
        ),
    }


def _gemma2(own: _Own, config: Mapping[str, Any]) -> dict[str, Any]:
    caps = ("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0)
    return {
        "sliding_window": own.fields.integer("attention.sliding_window", 4096),
        "query_pre_attn_scalar": _scalar(config, by_width=46),
        **{name: own.fields.number(name, default) for name, default in caps},
    }


def _gemma3(own: _Own, config: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "sliding_window": own.fields.integer("attention.sliding_window"),
        "query_pre_attn_scalar": _scalar(config, by_width=62),
    }
    if own.fields.has("final_logit_softcapping"):
        found["final_logit_softcapping"] = own.fields.number("final_logit_softcapping")
    return found


def _scalar(config: Mapping[str, Any], by_width: int) -> int:
    """What scores are divided by the root of, which no key says.

    by_width: the layers of the one size that takes it from the model's width.
    """
    if config["num_hidden_layers"] == by_width:
        return int(config["hidden_size"] // config["num_attention_heads"])
    return int(config["head_dim"])


_MORE: Mapping[str, Callable[[_Own, Mapping[str, Any]], dict[str, Any]]] = {
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "gpt-oss": _gpt_oss,
    "llama": _llama,
    "phi3": _phi3,
    "qwen2moe": _qwen2moe,
    "qwen3": _qwen3,
    "qwen3moe": _qwen3moe,
}
