"""Gemma's configs as they are published, and the text model of a Gemma 3 that also sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Gemma2Config,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GemmaConfig,
)

from kept import LLM
from kept.models import read_config
from kept.models.gemma_config import GemmaConfig as Read

from .generation import prompts
from .test_files import rewrite_config
from .zoo import VOCAB, make_hf, randomise

CLOSE = {"rtol": 0.0, "atol": 1e-4}


def read(**config: Any) -> Read:
    found = read_config(config)
    assert isinstance(found, Read)
    return found


@pytest.mark.parametrize("config_class", [GemmaConfig, Gemma2Config, Gemma3TextConfig])
def test_what_a_config_leaves_out(config_class: Any) -> None:
    hf = config_class()
    found = read(model_type=hf.model_type)
    for name, theirs in (
        ("vocab_size", hf.vocab_size),
        ("hidden_size", hf.hidden_size),
        ("mlp_size", hf.intermediate_size),
        ("num_layers", hf.num_hidden_layers),
        ("num_heads", hf.num_attention_heads),
        ("num_kv_heads", hf.num_key_value_heads),
        ("head_dim", hf.head_dim),
        ("context", hf.max_position_embeddings),
        ("norm_eps", hf.rms_norm_eps),
        ("tied", hf.tie_word_embeddings),
        ("activation", getattr(hf, "hidden_activation", "gelu_pytorch_tanh")),
        ("score_cap", getattr(hf, "attn_logit_softcapping", None)),
        ("logit_cap", getattr(hf, "final_logit_softcapping", None)),
        ("scale", getattr(hf, "query_pre_attn_scalar", 256) ** -0.5),
    ):
        assert getattr(found, name) == theirs, name
    types = getattr(hf, "layer_types", ["full_attention"] * hf.num_hidden_layers)
    assert found.windows == tuple(
        hf.sliding_window if t == "sliding_attention" else None for t in types
    )
    assert [found.ropes[base].theta for base in found.bases] == [
        hf.rope_parameters.get(t, hf.rope_parameters)["rope_theta"] for t in types
    ]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("gemma2", {"layer_types": ..., "rope_parameters": ...}),
        ("gemma2", {"rope_parameters": ..., "rope_theta": 500.0}),
        ("gemma2 uncapped", {"final_logit_softcapping": ..., "attn_logit_softcapping": ...}),
        ("gemma3", {"layer_types": ..., "rope_parameters": ..., "sliding_window_pattern": 2}),
        ("gemma3", {"layer_types": ..., "rope_parameters": ..., "sliding_window_pattern": 1}),
        (
            "gemma3",
            {
                "rope_parameters": ...,
                "rope_theta": 3000.0,
                "rope_local_base_freq": 50.0,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            },
        ),
        ("gemma3", {"rope_parameters": {"full_attention": {"rope_type": "default"}}}),
        ("gemma", {"hidden_act": ..., "rope_parameters": ..., "tie_word_embeddings": ...}),
    ],
    ids=str,
)
@torch.no_grad()
def test_older_spellings(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    hf = make_hf(name)
    hf.save_pretrained(tmp_path)
    rewrite_config(tmp_path, **changes)
    again = type(hf).from_pretrained(tmp_path, attn_implementation="eager").eval()
    ids = torch.tensor(prompts(40))
    torch.testing.assert_close(LLM(tmp_path).model(ids).logits, again(ids).logits, **CLOSE)


def seeing() -> Gemma3ForConditionalGeneration:
    text = make_hf("gemma3 linear").config.to_dict()
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 8,
        "patch_size": 4,
        "vision_use_head": False,
    }
    config = Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_index=VOCAB - 1,
    )
    config._attn_implementation = "eager"
    hf = Gemma3ForConditionalGeneration(config)
    randomise(hf, seed=1)
    return hf.eval()


@torch.no_grad()
def test_the_text_of_a_model_that_also_sees(tmp_path: Path, backend: str) -> None:
    hf = seeing()
    hf.save_pretrained(tmp_path)
    ids = torch.tensor(prompts(30)) % (VOCAB - 1)
    expected = hf(ids).logits
    torch.testing.assert_close(LLM(tmp_path).model(ids).logits, expected, **CLOSE)
    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)
    assert any(name.startswith("vision_tower.") for name in tensors)
    swapped = {
        name.replace("language_model.model.", "model.language_model.")
        if "language_model.model." in name
        else f"model.{name}": x
        for name, x in tensors.items()
    }
    save_file(swapped, weights, metadata={"format": "pt"})
    torch.testing.assert_close(LLM(tmp_path).model(ids).logits, expected, **CLOSE)
