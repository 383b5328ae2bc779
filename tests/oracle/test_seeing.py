"""The text models of checkpoints that also see, and what Gemma 4's config leaves out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    Gemma3nTextConfig,
    Gemma4TextConfig,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
)

from kept import LLM, UnsupportedModelError
from kept.models import read_config
from kept.models.gemma3n_config import Gemma3nConfig
from kept.models.gemma4_config import Gemma4Config

from .generation import prompts
from .test_family_files import renamed
from .test_files import rewrite_config, rewrite_tensors
from .zoo import make_hf, randomise

CLOSE = {"rtol": 0.0, "atol": 1e-4}


def test_what_a_gemma4_config_leaves_out() -> None:
    hf = Gemma4TextConfig()
    found = read_config({"model_type": "gemma4_text"})
    assert isinstance(found, Gemma4Config)
    sizes = hf.vocab_size, hf.hidden_size, hf.num_attention_heads, hf.hidden_size_per_layer_input
    ours = found.vocab_size, found.hidden_size, found.num_heads, found.input_size
    assert ours == sizes
    assert len(found.layers) == hf.num_hidden_layers
    for layer, kind, index in zip(found.layers, hf.layer_types, range(99), strict=False):
        theirs = hf.per_layer_config[index]
        assert (layer.width, layer.num_kv_heads) == (theirs.head_dim, theirs.num_key_value_heads)
        assert layer.mlp_size == hf.intermediate_size
        assert layer.window == (hf.sliding_window if kind == "sliding_attention" else None)
    whole, local = found.ropes
    assert (whole.type, whole.theta, whole.dim, whole.turned) == ("proportional", 1e6, 512, 64)
    assert (local.type, local.theta, local.dim) == ("default", 1e4, 256)


def test_what_a_gemma3n_config_leaves_out() -> None:
    hf = Gemma3nTextConfig()
    found = read_config({"model_type": "gemma3n_text"})
    assert isinstance(found, Gemma3nConfig)
    assert found.vocab_size == hf.vocab_size
    assert found.hidden_size == hf.hidden_size
    assert found.num_heads == hf.num_attention_heads
    assert found.input_size == hf.hidden_size_per_layer_input
    assert found.input_vocab == hf.vocab_size_per_layer_input
    assert found.num_streams == hf.altup_num_inputs
    assert found.active == hf.altup_active_idx
    assert found.rank == hf.laurel_rank
    assert found.logit_cap == hf.final_logit_softcapping
    assert found.scales_active == hf.altup_correct_scale
    assert found.context == hf.max_position_embeddings
    assert [rope.theta for rope in found.ropes] == [1e6, 1e4]
    assert len(found.layers) == hf.num_hidden_layers
    shares = list(hf.activation_sparsity_pattern)
    for layer, kind, size, share, cut in zip(
        found.layers, hf.layer_types, hf.intermediate_size, shares, found.deviations, strict=True
    ):
        assert layer.mlp_size == size
        assert layer.window == (hf.sliding_window if kind == "sliding_attention" else None)
        expected = torch.distributions.Normal(0, 1).icdf(torch.tensor(share))
        assert cut is None if share == 0 else cut == pytest.approx(expected.item(), rel=1e-6)
    assert [layer.shares for layer in found.layers[-2:]] == [18, 19]


@torch.no_grad()
def test_the_text_of_a_gemma3n_that_also_sees(tmp_path: Path) -> None:
    """With rotary bases and one size of MLPs told as its first configs did."""
    hf = make_hf("gemma3n", intermediate_size=70)
    hf.save_pretrained(tmp_path)
    ids = torch.tensor(prompts(30))
    expected = hf(ids).logits
    text = json.loads((tmp_path / "config.json").read_text())
    del text["rope_parameters"]
    text |= {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "intermediate_size": 70}
    outer = {
        "model_type": "gemma3n",
        "architectures": ["Gemma3nForConditionalGeneration"],
        "text_config": text,
    }
    (tmp_path / "config.json").write_text(json.dumps(outer))
    unused = {
        "model.audio_tower.conv.weight": torch.ones(2),
        "model.embed_audio.norm.weight": torch.ones(2),
        "model.language_model.layers.3.self_attn.v_proj.weight": torch.ones(2, 2),
    }
    rewrite_tensors(
        tmp_path, lambda found: {**renamed(found, {"model.": "model.language_model."}), **unused}
    )
    torch.testing.assert_close(LLM(tmp_path).model(ids).logits, expected, **CLOSE)


@torch.no_grad()
def test_the_text_of_a_gemma4_that_also_sees(tmp_path: Path) -> None:
    """Named as in a model of several parts, with heads told as its first configs did."""
    hf = make_hf("gemma4")
    hf.save_pretrained(tmp_path)
    ids = torch.tensor(prompts(30))
    expected = hf(ids).logits
    text = json.loads((tmp_path / "config.json").read_text())
    del text["per_layer_config"]
    # The second of these is heeded where values equal keys alone.
    text |= {"global_head_dim": 20, "num_global_key_value_heads": 1}
    outer = {
        "model_type": "gemma4",
        "architectures": ["Gemma4ForConditionalGeneration"],
        "text_config": text,
    }
    (tmp_path / "config.json").write_text(json.dumps(outer))
    unused = {
        "model.vision_tower.patch.weight": torch.ones(2),
        "model.embed_vision.norm.weight": torch.ones(2),
        "model.language_model.layers.3.self_attn.k_proj.weight": torch.ones(2, 2),
    }
    rewrite_tensors(
        tmp_path, lambda found: {**renamed(found, {"model.": "model.language_model."}), **unused}
    )
    torch.testing.assert_close(LLM(tmp_path).model(ids).logits, expected, **CLOSE)


@torch.no_grad()
def test_the_text_of_a_mistral_that_also_sees(tmp_path: Path) -> None:
    text = make_hf("mistral").config.to_dict()
    vision = {
        "model_type": "pixtral",
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 8,
        "patch_size": 4,
    }
    config = Mistral3Config(text_config=text, vision_config=vision, tie_word_embeddings=False)
    hf = Mistral3ForConditionalGeneration(config).eval()
    randomise(hf, seed=3)
    hf.save_pretrained(tmp_path)
    ids = torch.tensor(prompts(30))
    expected = hf(ids).logits
    torch.testing.assert_close(LLM(tmp_path).model(ids).logits, expected, **CLOSE)
    names = {"language_model.model.": "model.language_model.", "language_model.lm": "lm"}
    rewrite_tensors(tmp_path, lambda tensors: renamed(tensors, names))
    torch.testing.assert_close(LLM(tmp_path).model(ids).logits, expected, **CLOSE)
    rewrite_config(tmp_path, text_config={**text, "model_type": "ministral3"})
    with pytest.raises(UnsupportedModelError, match="text_config has model_type = 'ministral3'"):
        LLM(tmp_path)
