"""What families' config.json leave out, spell otherwise or ask for in vain; names of tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from kept import LLM, CheckpointError, UnsupportedModelError
from kept.models import build_model, read_config
from kept.models.decoder_config import DecoderConfig

from .families import FIRST, MODELS
from .generation import prompts
from .test_files import Tensors, rewrite_config, rewrite_tensors
from .zoo import make_hf

CLOSE = {"rtol": 0.0, "atol": 1e-4}
# By which names transformers' config classes have what kept reads.
NAMES = {
    "vocab_size": ("vocab_size",),
    "hidden_size": ("hidden_size",),
    "mlp_size": ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner"),
    "num_layers": ("num_hidden_layers",),
    "num_heads": ("num_attention_heads",),
    "num_kv_heads": ("num_key_value_heads",),
    "head_dim": ("head_dim",),
    "context": ("max_position_embeddings", "max_seq_len"),
    "norm_eps": ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"),
    "tied": ("tie_word_embeddings",),
    "activation": ("hidden_act", "activation_function", "activation"),
    "embedding_scale": ("embedding_multiplier",),
    "residual_scale": ("residual_multiplier",),
}
# Of configs of their own.
APART = ("gemma3n", "deepseek_v2", "deepseek_v3", "gemma4")


def read(**config: Any) -> DecoderConfig:
    found = read_config(config)
    assert isinstance(found, DecoderConfig)
    return found


@pytest.mark.parametrize("name", [name for name in FIRST if name not in APART])
def test_what_a_config_leaves_out(name: str) -> None:
    hf = MODELS[name][1]()
    found = read(model_type=hf.model_type)
    for ours, theirs in NAMES.items():
        given = [getattr(hf, x) for x in theirs if getattr(hf, x, None) is not None]
        if given:
            assert getattr(found, ours) == given[0], ours
    window = getattr(hf, "sliding_window", None) or getattr(hf, "window_size", None)
    types = getattr(hf, "layer_types", None) or getattr(hf, "attention_layers", None)
    if types is None:
        types = ["full_attention" if window is None else "local"] * hf.num_hidden_layers
    local = {"sliding_attention", "local"}
    assert found.windows == tuple(window if kind in local else None for kind in types)
    rope = getattr(hf, "rope_parameters", None)
    if rope is not None and found.ropes:
        rope = rope.get("full_attention", rope)
        assert found.ropes[0].theta == rope["rope_theta"]
        assert found.ropes[0].dim == int(found.head_dim * rope.get("partial_rotary_factor", 1.0))
    rotates = getattr(hf, "no_rope_layers", None)
    if rotates is not None:
        assert [turn is not None for turn in found.turns] == [bool(x) for x in rotates]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("phi", {"rope_parameters": ..., "partial_rotary_factor": 0.5, "rope_theta": 300.0}),
        ("phi3 long", {"rope_parameters": "su"}),
        ("phi3 long", {"rope_parameters": "yarn"}),
        ("gpt_neox", {"rope_parameters": ..., "rotary_pct": 0.25, "rotary_emb_base": 77.0}),
        ("gpt_neox", {"rope_parameters": ..., "rope_scaling": {"type": "linear", "factor": 2.0}}),
        ("stablelm", {"rope_parameters": ..., "partial_rotary_factor": 0.25}),
        (
            "olmo3",
            {"rope_parameters": ..., "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        ),
        ("smollm3", {"no_rope_layers": [0, 1, 1]}),
        ("cohere2", {"layer_types": ..., "sliding_window_pattern": 3}),
        ("falcon", {"hidden_size": ..., "n_embed": 48}),
        ("gptj", {"n_inner": 128}),
    ],
    ids=str,
)
@torch.no_grad()
def test_older_spellings(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    hf = make_hf(name)
    hf.save_pretrained(tmp_path)
    if isinstance(changes.get("rope_parameters"), str):
        fields = json.loads((tmp_path / "config.json").read_text())["rope_parameters"]
        scaling = {**fields, "type": changes["rope_parameters"]}
        del scaling["rope_type"], scaling["rope_theta"]
        changes = {"rope_parameters": ..., "rope_theta": 1000.0, "rope_scaling": scaling}
    rewrite_config(tmp_path, **changes)
    again = type(hf).from_pretrained(tmp_path, attn_implementation="eager").eval()
    ids = torch.tensor(prompts(40))
    torch.testing.assert_close(LLM(tmp_path).model(ids).logits, again(ids).logits, **CLOSE)


REFUSED: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("phi", {"qk_layernorm": True}, UnsupportedModelError, "qk_layernorm"),
    ("phi", {"partial_rotary_factor": 0.01}, CheckpointError, "partial_rotary_factor = 0.01"),
    ("phi3", {"rope_scaling": {"type": "linear"}}, UnsupportedModelError, "'linear'"),
    (
        "phi3",
        {"rope_scaling": {"type": "longrope", "short_factor": [1.0]}},
        CheckpointError,
        "short_factor = .*a list of 48 numbers",
    ),
    ("olmo", {"clip_qkv": 8.0}, UnsupportedModelError, "clip_qkv"),
    ("smollm3", {"no_rope_layers": [1, 2]}, CheckpointError, "no_rope_layers.*one per layer"),
    ("stablelm", {"qk_layernorm": True}, UnsupportedModelError, "qk_layernorm"),
    ("gptj", {"rotary_dim": 7}, CheckpointError, "rotary_dim = 7"),
    ("gptj", {"n_head": 15}, CheckpointError, "n_embd = 4096, which n_head = 15"),
    (
        "falcon",
        {"new_decoder_architecture": True, "parallel_attn": False},
        UnsupportedModelError,
        "parallel_attn = False",
    ),
    ("gpt_neo", {"attention_types": [[["global"], 2]]}, CheckpointError, "24 layers in all"),
    ("gpt_neo", {"attention_types": [["global"]]}, CheckpointError, "attention_types"),
    (
        "bloom",
        {"apply_residual_connection_post_layernorm": True},
        UnsupportedModelError,
        "apply_residual",
    ),
    (
        "gemma3n_text",
        {"use_bidirectional_attention": True},
        UnsupportedModelError,
        "use_bidirectional_attention.*keys that are kept",
    ),
    ("gemma3n_text", {"altup_num_inputs": 9}, CheckpointError, "altup_num_inputs = 9"),
    ("gemma3n_text", {"altup_active_idx": 4}, CheckpointError, "altup_active_idx = 4"),
    (
        "gemma3n_text",
        {"activation_sparsity_pattern": [0.5]},
        CheckpointError,
        "activation_sparsity_pattern .* a list of 35 numbers",
    ),
    ("gemma3n_text", {"activation_sparsity_pattern": 1.0}, CheckpointError, "1.0 in activation"),
    ("gemma3n_text", {"intermediate_size": [7]}, CheckpointError, "1 sizes in intermediate_size"),
    (
        "gemma3n_text",
        {"num_kv_shared_layers": 31},
        CheckpointError,
        "num_kv_shared_layers = 31, but no layer .* 'full_attention'",
    ),
    ("gemma4_text", {"enable_moe_block": True}, UnsupportedModelError, "enable_moe_block"),
    (
        "gemma4_text",
        {"use_bidirectional_attention": "all"},
        UnsupportedModelError,
        "use_bidirectional_attention.*keys that are kept",
    ),
    (
        "gemma4_text",
        {"num_kv_shared_layers": 27},
        CheckpointError,
        "num_kv_shared_layers = 27, but no layer .* 'full_attention'",
    ),
    ("gemma4_text", {"vocab_size_per_layer_input": 9}, CheckpointError, "vocab_size_per_layer"),
    ("mpt", {"attn_config": {"alibi": False}}, UnsupportedModelError, "attn_config has alibi"),
    ("mpt", {"attn_config": {"clip_qkv": 6}}, UnsupportedModelError, "clip_qkv = 6"),
    ("mpt", {"no_bias": False}, UnsupportedModelError, "no_bias"),
]


def test_scaling_by_length_in_one_kind_of_layers_is_refused() -> None:
    by_type = {"sliding_attention": {"rope_type": "dynamic", "factor": 2.0}}
    for name in ("olmo3", "gemma3n_text", "gemma4_text"):
        with pytest.raises(UnsupportedModelError, match="dynamic rotary scaling"):
            build_model({"model_type": name, "rope_parameters": by_type})


@pytest.mark.parametrize(("name", "config", "kind", "message"), REFUSED, ids=str)
def test_refused(name: str, config: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        read_config({"model_type": name, **config})


def renamed(tensors: Tensors, names: dict[str, str]) -> Tensors:
    """Tensors with parts of their names replaced, one after the other."""
    found = {}
    for name, tensor in tensors.items():
        for old, new in names.items():
            name = name.replace(old, new)
        found[name] = tensor
    return found


@torch.no_grad()
def test_internlm2_is_a_llama_with_its_heads_in_groups(tmp_path: Path) -> None:
    hf = make_hf("llama")
    hf.save_pretrained(tmp_path)
    names = {
        "embed_tokens": "tok_embeddings",
        "lm_head": "output",
        "self_attn.o_proj": "attention.wo",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.up_proj": "feed_forward.w3",
        "mlp.down_proj": "feed_forward.w2",
    }

    def fuse(tensors: Tensors) -> Tensors:
        for layer in range(2):
            there = f"model.layers.{layer}."
            parts = [tensors.pop(f"{there}self_attn.{x}_proj.weight") for x in "qkv"]
            q, k, v = (part.unflatten(0, (2, -1, 8)) for part in parts)
            fused = torch.cat((q, k, v), dim=1).flatten(0, 2)
            tensors[f"{there}attention.wqkv.weight"] = fused
        return renamed(tensors, names)

    rewrite_tensors(tmp_path, fuse)
    rewrite_config(
        tmp_path, model_type="internlm2", architectures=["InternLM2ForCausalLM"], bias=False
    )
    ids = torch.tensor(prompts(20))
    torch.testing.assert_close(LLM(tmp_path).model(ids).logits, hf(ids).logits, **CLOSE)


@torch.no_grad()
def test_minicpm_is_a_granite_that_scales_by_its_sizes(tmp_path: Path) -> None:
    hf = make_hf(
        "granite",
        attention_bias=False,
        attention_multiplier=8**-0.5,
        embedding_multiplier=12.0,
        residual_multiplier=1.4 / 2**0.5,
        logits_scaling=48 / 16,
    )
    hf.save_pretrained(tmp_path)
    rewrite_config(
        tmp_path,
        model_type="minicpm",
        architectures=["MiniCPMForCausalLM"],
        scale_emb=12,
        scale_depth=1.4,
        dim_model_base=16,
    )
    ids = torch.tensor(prompts(20))
    torch.testing.assert_close(LLM(tmp_path).model(ids).logits, hf(ids).logits, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("gpt_neox", {"embed_out": "lm_head"}),
        ("gpt_neox", {"lm_head": "embed_out", "gpt_neox.": ""}),
        ("bloom", {"transformer.": ""}),
        ("opt", {"model.decoder": "decoder"}),
    ],
    ids=str,
)
def test_names_of_older_files_and_heads_beside_the_models(
    tmp_path: Path, name: str, names: dict[str, str]
) -> None:
    hf = make_hf(name)
    hf.save_pretrained(tmp_path)
    beside = {"v_head.summary.weight": torch.ones(1, 1)}
    rewrite_tensors(tmp_path, lambda tensors: {**renamed(tensors, names), **beside})
    ids = torch.tensor(prompts(20))
    torch.testing.assert_close(LLM(tmp_path).model(ids).logits, hf(ids).logits, **CLOSE)


@pytest.mark.parametrize("kind", ["lfm2", "qwen3_5", "mamba2"])
def test_states_that_sum_up_are_refused(kind: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"'{kind}'.*cannot be cut back"):
        read_config({"model_type": kind})
