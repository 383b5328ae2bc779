"""Configs that kept cannot run are refused, with the field named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kept import LLM, CheckpointError, UnsupportedFormatError, UnsupportedModelError, WeightsError

from .test_files import rewrite_config
from .zoo import make_hf

ROPE = {"rope_theta": 1e4}
REFUSED: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("llama", {"model_type": "bert"}, UnsupportedModelError, "'bert', an encoder.*no keys and"),
    ("llama", {"model_type": "roberta"}, UnsupportedModelError, "encoder"),
    ("llama", {"model_type": "mamba"}, UnsupportedModelError, r"'mamba'.*runs .*gpt2,"),
    ("llama", {"model_type": ...}, UnsupportedModelError, "model_type = None"),
    (
        "llama",
        {"architectures": ["LlamaForSequenceClassification"]},
        UnsupportedModelError,
        "architectures = .*LlamaForSequenceClassification.*LlamaForCausalLM",
    ),
    ("gpt2", {"architectures": ["GPT2DoubleHeadsModel"]}, UnsupportedModelError, "architectures"),
    ("llama", {"architectures": "LlamaForCausalLM"}, UnsupportedModelError, "architectures"),
    ("llama", {"hidden_size": "48"}, CheckpointError, "hidden_size = '48'.*an integer"),
    ("llama", {"hidden_size": 48.5}, CheckpointError, "hidden_size"),
    ("llama", {"hidden_size": True}, CheckpointError, "hidden_size"),
    ("llama", {"num_hidden_layers": 0}, CheckpointError, "num_hidden_layers = 0.*at least 1"),
    ("llama", {"num_hidden_layers": 10**30}, CheckpointError, "at most 1024"),
    ("llama", {"hidden_size": 10**30}, CheckpointError, "hidden_size.*at most"),
    ("llama", {"head_dim": 2**30}, CheckpointError, "head_dim = 1073741824.*at most 65536"),
    ("llama", {"model_type": ["llama"]}, UnsupportedModelError, "model_type = "),
    (
        "llama linear",
        {"partial_rotary_factor": 0.5},
        UnsupportedModelError,
        "partial_rotary_factor = 0.5 and rope_type = 'linear'",
    ),
    ("llama", {"head_dim": 7}, UnsupportedModelError, "heads of 7 elements.*in pairs"),
    ("llama", {"vocab_size": ...}, CheckpointError, "no vocab_size"),
    ("llama", {"intermediate_size": None}, CheckpointError, "no intermediate_size"),
    ("llama", {"num_key_value_heads": 4}, CheckpointError, "num_key_value_heads = 4"),
    ("mistral", {"num_key_value_heads": ...}, CheckpointError, "num_key_value_heads = 8"),
    ("llama", {"rms_norm_eps": "1e-6"}, CheckpointError, "rms_norm_eps.*a number"),
    ("llama", {"rms_norm_eps": -1.0}, CheckpointError, "rms_norm_eps.*above 0"),
    ("llama", {"hidden_act": "quick_gelu"}, UnsupportedModelError, "hidden_act = 'quick_gelu'"),
    ("llama", {"tie_word_embeddings": "yes"}, CheckpointError, "tie_word_embeddings.*true or"),
    ("llama", {"attention_bias": 1}, CheckpointError, "attention_bias"),
    ("llama", {"rope_parameters": [1]}, CheckpointError, "rope_parameters.*an object"),
    (
        "llama",
        {"rope_parameters": {"rope_type": "su", **ROPE}},
        UnsupportedModelError,
        "rope_parameters has rope_type = 'su'.*llama3, yarn",
    ),
    (
        "llama",
        {"rope_parameters": {"rope_type": "longrope", **ROPE}},
        CheckpointError,
        "rope_parameters has no short_factor",
    ),
    ("llama", {"rope_scaling": {"type": "ntk"}}, UnsupportedModelError, "type = 'ntk'"),
    ("llama", {"rope_scaling": {"type": "linear"}}, CheckpointError, "rope_scaling has no factor"),
    (
        "llama",
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        CheckpointError,
        "no low_freq_factor",
    ),
    (
        "llama",
        {"rope_scaling": {"rope_type": "dynamic", "factor": "two"}},
        CheckpointError,
        "factor = 'two'",
    ),
    (
        "qwen2 window",
        {"layer_types": ["full_attention"]},
        CheckpointError,
        "layer_types.*a list of 3, one per layer",
    ),
    (
        "qwen2 window",
        {"layer_types": ["full_attention", "chunked_attention", "full_attention"]},
        UnsupportedModelError,
        "'chunked_attention' in layer_types",
    ),
    ("qwen2 window", {"sliding_window": 0}, CheckpointError, "sliding_window = 0"),
    (
        "gemma3",
        {"use_bidirectional_attention": True},
        UnsupportedModelError,
        "use_bidirectional_attention = True.*keys that are kept",
    ),
    ("gemma2", {"use_bidirectional_attention": True}, UnsupportedModelError, "use_bidirectional"),
    ("gemma3", {"attn_logit_softcapping": 50.0}, UnsupportedModelError, "attn_logit_softcapping"),
    (
        "gemma3",
        {"rope_parameters": ..., "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        UnsupportedModelError,
        "dynamic rotary scaling",
    ),
    ("gemma2", {"final_logit_softcapping": 0}, CheckpointError, "final_logit_softcapping.*above 0"),
    ("gemma2", {"num_key_value_heads": 4}, CheckpointError, "num_key_value_heads = 4"),
    ("gemma3", {"layer_types": ["full_attention"]}, CheckpointError, "a list of 3"),
    ("gemma3", {"sliding_window_pattern": 0, "layer_types": ...}, CheckpointError, "pattern = 0"),
    ("gemma3", {"query_pre_attn_scalar": -1}, CheckpointError, "query_pre_attn_scalar.*above 0"),
    ("gemma3", {"model_type": "gemma3", "architectures": None}, CheckpointError, "no text_config"),
    (
        "gemma3",
        {"model_type": "vaultgemma"},
        UnsupportedModelError,
        r"runs .*gemma3_text,",
    ),
    (
        "gemma2",
        {"model_type": "gemma", "architectures": None},
        WeightsError,
        "feedforward_layernorm",
    ),
    ("gpt2", {"n_head": 5}, CheckpointError, "n_embd = 32, which n_head = 5 does not divide"),
    ("gpt2", {"add_cross_attention": True}, UnsupportedModelError, "add_cross_attention"),
    ("gpt2", {"activation_function": "tanh"}, UnsupportedModelError, "activation_function"),
    ("gpt2", {"scale_attn_weights": "no"}, CheckpointError, "scale_attn_weights"),
    ("llama", {"hidden_size": 64, "head_dim": 8}, WeightsError, "hidden_size"),
    ("llama", {"intermediate_size": 96}, WeightsError, "intermediate_size"),
    ("llama", {"vocab_size": 98}, WeightsError, "vocab_size"),
    ("llama", {"num_key_value_heads": 3}, WeightsError, "num_key_value_heads"),
    ("llama", {"head_dim": 16}, WeightsError, "head_dim"),
    ("llama", {"num_hidden_layers": 1}, WeightsError, "Unexpected.*layers.1.*number of layers"),
    ("llama", {"num_hidden_layers": 3}, WeightsError, "Missing.*layers.2.*number of layers"),
    ("llama", {"attention_bias": True}, WeightsError, "Missing.*q_proj.bias.*biases"),
    ("llama attention bias", {"attention_bias": False}, WeightsError, "Unexpected.*proj.bias"),
    ("llama mlp bias", {"mlp_bias": False}, WeightsError, "Unexpected.*gate_proj.bias"),
    ("llama tied", {"tie_word_embeddings": False}, WeightsError, "Missing.*lm_head.*tied"),
    ("gpt2", {"n_positions": 64}, WeightsError, "n_positions"),
    ("gpt2", {"n_inner": 64}, WeightsError, "n_inner"),
    ("qwen3", {"model_type": "llama", "architectures": None}, WeightsError, "q_norm"),
    (
        "llama",
        {"quantization_config": {"quant_method": "aqlm", "bits": 4}},
        UnsupportedFormatError,
        "quantization_config.*'aqlm'",
    ),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for name in {case[0] for case in REFUSED}:
        folders[name] = tmp_path_factory.mktemp("refused")
        make_hf(name).save_pretrained(folders[name])
    return folders


@pytest.mark.parametrize(
    ("name", "changes", "kind", "message"), REFUSED, ids=lambda x: str(x)[:40] if x else ""
)
def test_refused(
    saved: dict[str, Path], name: str, changes: dict[str, Any], kind: type[Exception], message: str
) -> None:
    config = saved[name] / "config.json"
    before = config.read_text()
    try:
        rewrite_config(saved[name], **changes)
        with pytest.raises(kind, match=message):
            LLM(saved[name])
    finally:
        config.write_text(before)
