"""Configs of models with experts as they are published, and their quantized forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MixtralConfig, OlmoeConfig, Qwen2MoeConfig, Qwen3MoeConfig

from kept import LLM, quantize_checkpoint
from kept.errors import CheckpointError, WeightsError
from kept.models import read_config
from kept.models.mixture_config import MixtureConfig as Read

from .generation import prompts
from .test_files import rewrite_config
from .zoo import make_hf


def read(**config: Any) -> Read:
    found = read_config(config)
    assert isinstance(found, Read)
    return found


CONFIGS = [MixtralConfig, OlmoeConfig, Qwen2MoeConfig, Qwen3MoeConfig]


@pytest.mark.parametrize("config_class", CONFIGS)
def test_what_a_config_leaves_out(config_class: Any) -> None:
    hf = config_class()
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    given = {name: getattr(hf, name) for name in (*names, "num_attention_heads")}
    found = read(model_type=hf.model_type, **given)
    experts = found.experts
    size = getattr(hf, "moe_intermediate_size", hf.intermediate_size)
    shared = getattr(hf, "shared_expert_intermediate_size", 0)
    head_dim = getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads
    for mine, theirs in (
        (found.num_kv_heads, hf.num_key_value_heads),
        (found.head_dim, head_dim),
        (found.context, hf.max_position_embeddings),
        (found.norm_eps, hf.rms_norm_eps),
        (found.tied, hf.tie_word_embeddings),
        (found.activation, hf.hidden_act),
        (found.rope.theta, hf.rope_parameters["rope_theta"]),
        (found.qkv_bias, getattr(hf, "qkv_bias", False)),
        (experts.num_experts, hf.num_experts),
        (experts.routing.top_k, hf.num_experts_per_tok),
        (experts.routing.normalised, getattr(hf, "norm_topk_prob", True)),
        (experts.size, size),
        (experts.shared_size, shared),
    ):
        assert mine == theirs
    assert found.dense == frozenset()
    assert set(found.windows) == {None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts_per_tok": 7}, "more than the 6 experts"),
        ({"mlp_only_layers": [3]}, "a list of integers from 0 to 2"),
        ({"mlp_only_layers": 1}, "a list of integers"),
        ({"decoder_sparse_step": 0}, "at least 1"),
    ],
)
def test_configs_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    config = make_hf("qwen3_moe").config.to_dict()
    with pytest.raises(CheckpointError, match=message):
        read(**{**config, **changes})


def test_another_number_of_experts(tmp_path: Path) -> None:
    make_hf("qwen3_moe").save_pretrained(tmp_path)
    rewrite_config(tmp_path, num_local_experts=7)
    with pytest.raises(WeightsError, match=r"experts\.6\.gate_proj"):
        LLM(tmp_path)


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_quantized_experts(tmp_path: Path, backend: str, format: str) -> None:
    """A router stays as it is; a quantized folder gives the bits of quantizing while loading."""
    make_hf("qwen2_moe").save_pretrained(tmp_path / "whole")
    loaded = LLM(tmp_path / "whole", quantize=format).model
    folder = quantize_checkpoint(tmp_path / "whole", tmp_path / "small", format)
    ids = torch.tensor(prompts(12))
    found = loaded(ids).logits
    assert torch.equal(LLM(folder).model(ids).logits, found)
    plain = LLM(tmp_path / "whole").model
    for name, weight in plain.named_parameters():
        if "router" in name:
            assert torch.equal(loaded.get_parameter(name), weight)
    exact = plain(ids).logits
    assert (found - exact).norm() / exact.norm() < {"int8": 0.2, "int4": 0.7}[format]
