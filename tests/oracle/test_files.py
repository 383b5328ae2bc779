"""Checkpoints as they are found in the wild: older spellings of config.json and of tensor names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from kept import LLM

from .generation import prompts
from .zoo import ZOO, make_hf

Tensors = dict[str, torch.Tensor]
CLOSE = {"rtol": 0.0, "atol": 1e-4}


def rewrite_config(folder: Path, **changes: Any) -> None:
    """Change fields of config.json; an ellipsis removes one."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))


def rewrite_tensors(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def without_prefix(tensors: Tensors) -> Tensors:
    return {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}


def with_buffers(tensors: Tensors) -> Tensors:
    prefix = "transformer." if "transformer.wte.weight" in tensors else ""
    causal = torch.ones(1, 1, 128, 128, dtype=torch.uint8).tril()
    buffers = {f"{prefix}h.{i}.attn.bias": causal.clone() for i in range(2)}
    masked = {f"{prefix}h.{i}.attn.masked_bias": torch.tensor(-1e4) for i in range(2)}
    return {**buffers, **masked, **tensors}


def with_head(tensors: Tensors) -> Tensors:
    return {**tensors, "lm_head.weight": tensors["transformer.wte.weight"].clone()}


@pytest.mark.parametrize(
    "changes",
    [
        (without_prefix,),
        (with_buffers,),
        (without_prefix, with_buffers),
        (with_head,),
    ],
    ids=lambda changes: " ".join(change.__name__ for change in changes),
)
@torch.no_grad()
def test_names_of_old_gpt2_files(tmp_path: Path, changes: tuple[Any, ...]) -> None:
    hf = make_hf("gpt2")
    hf.save_pretrained(tmp_path)
    for change in changes:
        rewrite_tensors(tmp_path, change)
    ids = torch.tensor(prompts(12))
    torch.testing.assert_close(LLM(tmp_path).model(ids).logits, hf(ids).logits, **CLOSE)


def as_base_model(tensors: Tensors) -> Tensors:
    renamed = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    buffers = {f"layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(2)}
    return {**renamed, **buffers}


@torch.no_grad()
def test_names_of_a_base_model(tmp_path: Path) -> None:
    hf = make_hf("llama tied")
    hf.save_pretrained(tmp_path)
    rewrite_tensors(tmp_path, as_base_model)
    rewrite_config(tmp_path, architectures=["LlamaModel"])
    ids = torch.tensor(prompts(12))
    torch.testing.assert_close(LLM(tmp_path).model(ids).logits, hf(ids).logits, **CLOSE)


ROPES = [name for name in ZOO if "rope_type" in ZOO[name].get("rope_parameters", {})]


@pytest.mark.parametrize("spelling", ["rope_type", "type"])
@pytest.mark.parametrize("name", ROPES)
@torch.no_grad()
def test_rope_as_transformers_4_wrote_it(tmp_path: Path, name: str, spelling: str) -> None:
    hf = make_hf(name)
    hf.save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())["rope_parameters"]
    theta, kind = fields.pop("rope_theta"), fields.pop("rope_type")
    scaling = None if kind == "default" else {spelling: kind, **fields}
    rewrite_config(tmp_path, rope_parameters=..., rope_theta=theta, rope_scaling=scaling)
    ids = torch.tensor(prompts(40))
    torch.testing.assert_close(LLM(tmp_path).model(ids).logits, hf(ids).logits, **CLOSE)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mistral", {"sliding_window": ...}),
        ("mistral no window", {"sliding_window": None}),
        ("llama mha", {"num_key_value_heads": ...}),
        ("llama mha", {"num_key_value_heads": None, "max_position_embeddings": ...}),
        ("llama", {"head_dim": None, "pretraining_tp": 2, "rms_norm_eps": ..., "hidden_act": ...}),
        ("llama", {"rope_parameters": ..., "rope_theta": ...}),
        ("llama", {"rope_parameters": {"rope_type": "default"}, "rope_theta": 777.0}),
        ("llama", {"rope_parameters": {}, "rope_scaling": {"type": "linear", "factor": 3.0}}),
        (
            "llama",
            {
                "rope_parameters": {"rope_type": "default", "rope_theta": 10.0},
                "rope_scaling": {"rope_type": "linear", "factor": 3.0},
            },
        ),
        (
            "llama yarn",
            {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "beta_fast": None}},
        ),
        (
            "llama yarn",
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "factor": 2.0,
                    "original_max_position_embeddings": 32,
                },
                "original_max_position_embeddings": 16,
            },
        ),
        ("qwen2", {"use_sliding_window": ..., "sliding_window": 3, "max_window_layers": 0}),
        ("qwen2 window", {"sliding_window": None, "layer_types": ...}),
        ("qwen2 window", {"layer_types": None}),
        ("qwen2 window", {"layer_types": ..., "max_window_layers": ...}),
        ("qwen3", {"attention_bias": ..., "rms_norm_eps": ...}),
        ("llama", {"partial_rotary_factor": 0.5}),
        (
            "llama",
            {
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 1000.0,
                    "partial_rotary_factor": 0.5,
                }
            },
        ),
        ("mistral", {"partial_rotary_factor": 0.5}),
        ("qwen2", {"partial_rotary_factor": 0.5}),
        ("qwen3", {"partial_rotary_factor": 0.25}),
        ("gpt2", {"n_inner": None, "activation_function": ..., "layer_norm_epsilon": ...}),
        ("gpt2", {"tie_word_embeddings": ..., "scale_attn_weights": ...}),
    ],
    ids=str,
)
@torch.no_grad()
def test_what_a_missing_or_odd_field_means(
    tmp_path: Path, name: str, changes: dict[str, Any]
) -> None:
    make_hf(name).save_pretrained(tmp_path)
    rewrite_config(tmp_path, **changes)
    hf = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    ids = torch.tensor(prompts(40))
    torch.testing.assert_close(LLM(tmp_path).model(ids).logits, hf(ids).logits, **CLOSE)
