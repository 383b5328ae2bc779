"""The text models of checkpoints that also see, and what Gemma 4's config leaves out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import Gemma4TextConfig, Mistral3Config, Mistral3ForConditionalGeneration

from kept import LLM, UnsupportedModelError
from kept.models import read_config
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
