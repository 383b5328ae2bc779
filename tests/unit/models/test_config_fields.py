"""Whatever stands in a field of config.json, a model is described or the field is named."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from kept.errors import CheckpointError
from kept.json_file import read_json_object
from kept.models.dtypes import resolve_dtype
from kept.models.registry import build_model

HUGE = 10**400  # beyond a float's range, and as long as a line
JUNK: tuple[Any, ...] = (
    *([], ["silu"], [[1]], {}, {"a": 1}, None, True, False, "", "x", "1"),
    *(-1, 0, 1, 2, 3, 10**30, HUGE, -HUGE, 0.0, 0.5, -0.5),
    *(1e300, -1e300, 1e-320, math.inf, -math.inf, math.nan),
)
GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 9,
    "n_embd": 8,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 16,
    "n_inner": 12,
    "layer_norm_epsilon": 1e-5,
    "activation_function": "gelu_new",
    "add_cross_attention": False,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": True,
    "dtype": "float32",
}
LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 9,
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 64,
    "original_max_position_embeddings": 32,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
    "partial_rotary_factor": 1.0,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
WINDOW = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
BANDS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": True}
SCALINGS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "llama3": {"factor": 2.0, **BANDS},
    "yarn": {"factor": 2.0, **YARN, "mscale": 1.0, "mscale_all_dim": 0.5},
    "yarn factor": {**YARN, "factor": 2.0, "attention_factor": 1.1},
}
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "gpt2": GPT2,
    "mistral": {**LLAMA, "model_type": "mistral", "architectures": None, "sliding_window": 8},
    "qwen2": {**LLAMA, **WINDOW, "model_type": "qwen2", "architectures": None},
    "qwen3": {
        **LLAMA,
        **WINDOW,
        "model_type": "qwen3",
        "architectures": None,
        "layer_types": ["full_attention", "sliding_attention"],
    },
} | {
    f"llama {name}": {**LLAMA, "rope_scaling": {"rope_type": name.split()[0], **scaling}}
    for name, scaling in SCALINGS.items()
}
# What an odd value of a field makes wrong: the error is about another one then.
ABOUT = {
    "head_dim": ("heads of",),
    "hidden_size": ("head_dim", "heads of"),
    "num_hidden_layers": ("layer_types",),
    "max_position_embeddings": ("stretches a context",),
    "original_max_position_embeddings": ("stretches a context",),
}


def junk(config: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The config with one field after the other replaced by one value after the other."""
    for name, value in config.items():
        for other in JUNK:
            yield name, {**config, name: other}
        if isinstance(value, dict):
            yield from ((inner, {**config, name: changed}) for inner, changed in junk(value))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_field_of_any_value(name: str) -> None:
    build_model(CONFIGS[name])
    refused = 0
    for field, config in junk(CONFIGS[name]):
        try:
            build_model(config)
            resolve_dtype(None, config)
        except CheckpointError as error:
            refused += 1
            text = str(error)
            assert any(words in text for words in (field, *ABOUT.get(field, ()))), (config, text)
            assert len(text) < 1000
    assert refused > 100


@pytest.mark.parametrize("value", [["silu"], {}, 5, True])
def test_what_is_no_string_is_said_to_be_none(value: Any) -> None:
    with pytest.raises(CheckpointError, match=r"hidden_act = .*must be a string, of which.*silu"):
        build_model({**LLAMA, "hidden_act": value})


def test_a_number_too_long_to_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(f'{{"vocab_size": {"1" * 10_001}}}')
    with pytest.raises(CheckpointError, match=r"holds a number of thousands of digits\. Correct"):
        read_json_object(tmp_path / "config.json", CheckpointError)
