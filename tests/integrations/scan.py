"""Every causal model of the installed transformers, tiny, in kept's cache against its own.

`scripts/scan_transformers` runs all of them, `test_scan.py` a sample.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import DynamicCache
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from kept.errors import KeptError
from kept.integrations.transformers import KeptCache
from kept.integrations.transformers.layer import KeptLayer
from kept.integrations.transformers.model import ATTENTION

VOCABULARY, LAYERS = 67, 2
STEPS = (9, 1, 1, 3, 1)  # new tokens of each pass, past every tiny window
PADDING = (0, 4)
CLOSE = 2e-4
# Sizes by the names that configs give them; a window is shorter than the first pass.
SMALL = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "dim_model", "embedding_size"), 32
    ),
    **dict.fromkeys(
        (
            "intermediate_size", "ffn_dim", "ffn_hidden_size", "d_ff", "dim_ff", "n_inner",
            "decoder_ffn_dim", "encoder_ffn_dim", "feed_forward_size", "inner_dim",
            "dense_intermediate_size",
        ),
        48,
    ),
    **dict.fromkeys(
        (
            "moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size",
            "shared_intermediate_size", "expert_dim", "moe_latent_size",
            "moe_shared_expert_intermediate_size", "intermediate_size_mlp",
        ),
        16,
    ),
    **dict.fromkeys(
        (
            "num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers",
            "encoder_layers", "num_decoder_layers", "num_encoder_layers",
        ),
        LAYERS,
    ),
    **dict.fromkeys(
        (
            "num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads",
            "encoder_attention_heads", "num_decoder_attention_heads",
            "num_encoder_attention_heads", "linear_num_value_heads", "swa_num_attention_heads",
        ),
        4,
    ),
    **dict.fromkeys(
        ("num_key_value_heads", "num_kv_heads", "multi_query_group_num", "linear_num_key_heads",
         "swa_num_key_value_heads", "num_global_key_value_heads"), 2
    ),
    **dict.fromkeys(("head_dim", "d_kv", "attention_head_dim", "swa_head_dim"), 8),
    "global_head_dim": 16,
    "swa_v_head_dim": 8,
    **dict.fromkeys(
        ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4
    ),
    **dict.fromkeys(
        ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts"), 2
    ),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "num_groups"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "hidden_size_per_layer_input"), 16),
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "qk_head_dim": 12,
    "v_head_dim": 10,
    **dict.fromkeys(("sliding_window", "attention_chunk_size"), 6),
    "first_k_dense_replace": 1,
    "rotary_dim": 4,
    **dict.fromkeys(
        (
            "max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "n_ctx",
            "seq_length", "original_max_position_embeddings", "max_target_positions",
        ),
        128,
    ),
    **dict.fromkeys(("pad_token_id",), 0),
    **dict.fromkeys(("bos_token_id", "decoder_start_token_id"), 1),
    "eos_token_id": VOCABULARY - 1,
}  # fmt: skip


# Of families whose sizes hang together, or whose defaults leave some open.
EXTRA: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 8, "attn_layer_indices": [1]},
    "granitemoehybrid": {
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "layer_types": ["mamba", "attention"],
    },
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "local"]},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 3, "layers_block_type": ["mamba", "mamba", "hybrid"]},
    **{family: {"head_dim": 8} for family in ("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral")},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4}
            for kind in ("sliding_attention", "full_attention")
        },
    },
    "dots3_note_text": {"num_key_value_heads": 4},
    "gemma3n_text": {
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_hidden_layers": 4,
        "intermediate_size": [48] * 4,
        "activation_sparsity_pattern": [0.0] * 4,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {"num_experts_per_tok": 2, "topk_method": "greedy"},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2},
    "roc_bert": {"pronunciation_vocab_size": 67, "shape_vocab_size": 67},
    "zaya": {"num_experts_per_tok": 1},
}


@dataclass(frozen=True)
class Verdict:
    """What became of a family: a word and the reason each of its keys in a KeptCache under eager
    attention, and of attn_implementation="kept".

    exact; refused, by kept's own error; wrong; crash; theirs, where transformers' own cache fails;
    unbuilt, where there is no tiny model of it.
    """

    family: str
    cache: str
    attention: str


def families() -> list[str]:
    """The model types that have a causal model."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny(family: str) -> Any:
    """A small config, its sizes put in place of the default's wherever it has fields for them."""
    return _shrunk(transformers.AutoConfig.for_model(family), EXTRA.get(family, {}))


def _shrunk(config: Any, extra: dict[str, Any]) -> Any:
    fields = config.to_dict()
    names = set(fields) | set(inspect.signature(type(config)).parameters)
    taken = {name: size for name, size in SMALL.items() if name in names}
    for name, size in list(taken.items()):
        if fields.get(name) is None and name not in ("pad_token_id", "sliding_window"):
            del taken[name]
        elif isinstance(fields.get(name), list):
            taken[name] = [size] * LAYERS
    if "qk_rope_head_dim" in taken:
        # Rotary tables are made for the one, and every head has keys of its own.
        taken |= {"head_dim": taken["qk_rope_head_dim"], "num_key_value_heads": 4}
    for name in type(config).sub_configs:
        part = getattr(config, name, None)
        if part is not None:
            taken[name] = _shrunk(part, EXTRA.get(part.model_type, {}))
    kinds = fields.get("layer_types")
    if kinds:
        kinds = list(dict.fromkeys(kinds))
        kinds += kinds[:1] * (LAYERS - len(kinds))
        taken |= {"layer_types": kinds, "num_hidden_layers": len(kinds)}
    if "is_decoder" in names:
        taken["is_decoder"] = True
    return type(config)(**{**taken, **extra})


def build(family: str, attention: str, weights: Any = None) -> Any:
    """A random model of the family; weights: those of another."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = transformers.AutoModelForCausalLM.from_config(
            tiny(family), attn_implementation=attention
        )
        if weights is None:
            for parameter in model.parameters():
                if parameter.ndim > 1:  # as initialised, it would attend alike everywhere
                    torch.nn.init.normal_(parameter, std=0.15)
    if weights is not None:
        model.load_state_dict(weights)
    return model.eval()


@torch.no_grad()
def logits(model: Any, cache: Any) -> Tensor:
    """(tokens, V) of every token that is no padding: a prompt, then pass after pass, or all at once
    without a cache."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, VOCABULARY - 1, (len(PADDING), sum(STEPS)), generator=generator)
    real = torch.arange(sum(STEPS)) >= torch.tensor(PADDING)[:, None]
    ids, found, end = ids * real, [], 0
    for count in STEPS if cache is not None else (sum(STEPS),):
        begin, end = end, end + count
        options = {} if cache is None else {"past_key_values": cache, "use_cache": True}
        out = model(input_ids=ids[:, begin:end], attention_mask=real[:, :end].long(), **options)
        found.append(out.logits)
    return torch.cat(found, dim=1)[real]


def scan(family: str) -> Verdict:
    """Hold kept's cache and attention against transformers' eager one, token by token."""
    try:
        theirs = build(family, "eager")
        alone = logits(theirs, None)
    except Exception as error:
        return Verdict(family, f"unbuilt: {_told(error)}", "unbuilt:")
    try:
        cached = logits(theirs, DynamicCache(config=theirs.config))
    except Exception as error:
        cached, theirs_fails = None, _told(error)
    cache = _tried(lambda: _in_kept(theirs), cached)
    weights = theirs.state_dict()
    model: Any = None

    def attended() -> Tensor:
        nonlocal model
        model = build(family, ATTENTION, weights)
        return logits(model, None)

    attention = _tried(attended, alone)
    if attention.startswith("exact") and cached is not None and cache.startswith("exact"):
        attention = _tried(lambda: _in_kept(model), cached)
    if cached is None and not cache.startswith("refused"):
        cache = f"theirs: DynamicCache fails too: {theirs_fails}"
    return Verdict(family, cache, attention)


def _in_kept(model: Any) -> Tensor:
    """As `logits`; where layers have windows, once more from rings; what is farther off."""
    cache = KeptCache.from_config(model.config)
    found = logits(model, cache)
    if not any(layer.window for layer in cache.layers if isinstance(layer, KeptLayer)):
        return found
    rings = logits(model, KeptCache.from_config(model.config, layout="sliding"))
    worst = float(found.abs().max().clamp(min=1)) * CLOSE
    return torch.where((rings - found).abs() > worst, rings, found)


def _tried(run: Callable[[], Tensor], want: Tensor | None) -> str:
    """The word for what comes of a run, and the reason."""
    try:
        found = run()
    except KeptError as error:
        return f"refused: {_told(error)}"
    except Exception as error:
        return f"crash: {_told(error)}"
    if want is None:
        return "exact: nothing to compare"
    if not bool(want.isfinite().all()):
        return "theirs: logits are not finite"
    off = float((found - want).abs().max() / want.abs().max().clamp(min=1))
    return f"exact: {off:.0e}" if off < CLOSE else f"wrong: by {off:.0e}"


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".replace("\n", " ")[:200]
