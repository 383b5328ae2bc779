"""Fields of config.json that stand in two places: which counts is what transformers says."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from kept.models.gemma_config import read_gemma_config
from kept.models.llama import read_llama_config
from kept.models.rope import RopeConfig, inverse_frequencies

SIZES = {
    **{"vocab_size": 99, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 6},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048},
}
SCALINGS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"type": "linear", "factor": 2.0},
    "linear or dynamic": {"type": "linear", "rope_type": "dynamic", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0},
    "yarn with its length": {
        **{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
    },
    "yarn with its scale": {
        **{"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 512},
        "attention_factor": 1.5,
    },
    "llama3": {
        **{"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 512},
        **{"low_freq_factor": 1.0, "high_freq_factor": 4.0},
    },
    "longrope": {
        **{"rope_type": "longrope", "factor": 8.0, "original_max_position_embeddings": 512},
        "short_factor": [1.0 + 0.1 * i for i in range(8)],
        "long_factor": [2.0 + 0.3 * i for i in range(8)],
    },
    "with a base": {"rope_type": "linear", "factor": 3.0, "rope_theta": 333.0},
}
BESIDE: dict[str, dict[str, Any]] = {
    "nothing": {},
    "base": {"rope_theta": 7000.0},
    "length": {"original_max_position_embeddings": 256},
    "both": {"rope_theta": 7000.0, "original_max_position_embeddings": 256},
}
OTHER = {"rope_type": "linear", "factor": 3.0, "rope_theta": 123.0}


def theirs(folder: Path, config: dict[str, Any]) -> Any:
    (folder / "config.json").write_text(json.dumps(config))
    return AutoConfig.from_pretrained(folder)


def assert_equal(rope: RopeConfig, frequencies: torch.Tensor, scale: float) -> None:
    torch.testing.assert_close(inverse_frequencies(rope), frequencies, rtol=1e-5, atol=0)
    assert rope.attention_factor == pytest.approx(scale)


@pytest.mark.parametrize("place", ["rope_scaling", "rope_parameters", "both"])
@pytest.mark.parametrize(("scaling", "beside"), list(product(SCALINGS, BESIDE)))
@pytest.mark.filterwarnings("ignore")
def test_rotary_fields_of_llama(tmp_path: Path, scaling: str, beside: str, place: str) -> None:
    config = {"model_type": "llama", **SIZES, **BESIDE[beside]}
    if place == "both":
        config |= {"rope_scaling": SCALINGS[scaling], "rope_parameters": OTHER}
    else:
        config[place] = SCALINGS[scaling]
    rotary = LlamaRotaryEmbedding(theirs(tmp_path, config))
    rope = read_llama_config(config).rope
    assert_equal(rope, rotary.inv_freq, rotary.attention_scaling)


GEMMA: dict[str, dict[str, Any]] = {
    "nothing": {},
    "bases": {"rope_theta": 5000.0, "rope_local_base_freq": 300.0},
    "scaling": {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    "scaling with a base": {"rope_scaling": OTHER, "rope_theta": 5000.0},
    "by layer": {
        "rope_parameters": {
            "full_attention": OTHER,
            "sliding_attention": {"rope_type": "default", "rope_theta": 77.0},
        },
        **{"rope_theta": 5000.0, "rope_local_base_freq": 300.0},
    },
    "by layer without bases": {
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0},
            "sliding_attention": {"rope_type": "default"},
        },
        **{"rope_theta": 5000.0, "rope_local_base_freq": 300.0},
    },
    "one layer": {
        "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}},
        "rope_local_base_freq": 300.0,
    },
    "both": {
        "rope_parameters": {
            "full_attention": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 55.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 77.0},
        },
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
    "length": {
        "rope_parameters": {
            "full_attention": {"rope_type": "yarn", "factor": 4.0},
            "sliding_attention": {"rope_type": "default"},
        },
        "original_max_position_embeddings": 256,
    },
}


@pytest.mark.parametrize("name", GEMMA)
@pytest.mark.filterwarnings("ignore")
def test_rotary_fields_of_gemma3(tmp_path: Path, name: str) -> None:
    config = {"model_type": "gemma3_text", **SIZES, "head_dim": 16, **GEMMA[name]}
    rotary = Gemma3RotaryEmbedding(theirs(tmp_path, config))
    read = read_gemma_config(json.loads(json.dumps(config)))
    assert read.local_rope is not None
    for rope, kind in ((read.rope, "full_attention"), (read.local_rope, "sliding_attention")):
        frequencies = getattr(rotary, f"{kind}_inv_freq")
        assert_equal(rope, frequencies, getattr(rotary, f"{kind}_attention_scaling"))
