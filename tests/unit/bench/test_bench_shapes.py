"""Shapes are the published ones, and random models are what their config says."""

import json

import pytest
import torch
from torch import nn

from kept.bench.json_report import config_fields
from kept.bench.random_weights import random_model
from kept.bench.shapes import SHAPES, shape_config
from kept.bench.subject import random_subject
from kept.errors import OptionError
from kept.models import build_model, read_config, resolve_dtype

# As the models' cards and safetensors headers count them; shared parameters once.
PARAMETERS = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "gemma-2-2b": 2_614_341_888,
    "gemma-3-270m": 268_098_176,
    "gemma-3-1b": 999_885_952,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "deepseek-v2-lite": 15_706_484_224,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.1-8b": 8_030_261_248,
    "llama-2-7b": 6_738_415_616,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-30b-a3b-small": 1_510_769_152,  # a twentieth
    "mixtral-8x7b-v0.1": 46_702_792_704,
    "mistral-7b-v0.1": 7_241_732_096,
}
# Bytes of keys and values per token, in the published dtype: 2 x layers x heads x head size.
CACHE_BYTES = {
    "gpt2": 2 * 12 * 12 * 64 * 4,
    "gpt2-medium": 2 * 24 * 16 * 64 * 4,
    "gpt2-large": 2 * 36 * 20 * 64 * 4,
    "gpt2-xl": 2 * 48 * 25 * 64 * 4,
    "gemma-2-2b": 2 * 26 * 4 * 256 * 2,
    "gemma-3-270m": 2 * 18 * 1 * 256 * 2,
    "gemma-3-1b": 2 * 26 * 1 * 256 * 2,
    "smollm2-135m": 2 * 30 * 3 * 64 * 2,
    "smollm2-360m": 2 * 32 * 5 * 64 * 2,
    "smollm2-1.7b": 2 * 24 * 32 * 64 * 2,
    "qwen2.5-0.5b": 2 * 24 * 2 * 64 * 2,
    "qwen2.5-1.5b": 2 * 28 * 2 * 128 * 2,
    "qwen2.5-7b": 2 * 28 * 4 * 128 * 2,
    "qwen3-0.6b": 2 * 28 * 8 * 128 * 2,
    "qwen3-1.7b": 2 * 28 * 8 * 128 * 2,
    "deepseek-v2-lite": 27 * (512 + 64) * 2,  # what keys and values are made of
    "llama-3.2-1b": 2 * 16 * 8 * 64 * 2,
    "llama-3.2-3b": 2 * 28 * 8 * 128 * 2,
    "llama-3.1-8b": 2 * 32 * 8 * 128 * 2,
    "llama-2-7b": 2 * 32 * 32 * 128 * 2,
    "qwen3-30b-a3b": 2 * 48 * 4 * 128 * 2,
    "qwen3-30b-a3b-small": 2 * 14 * 2 * 128 * 2,
    "mixtral-8x7b-v0.1": 2 * 32 * 8 * 128 * 2,
    "mistral-7b-v0.1": 2 * 32 * 8 * 128 * 2,
}
CONTEXTS = {
    "gpt2": 1024,
    "gemma-2-2b": 8192,
    "gemma-3-1b": 32768,
    "smollm2-1.7b": 8192,
    "qwen2.5-0.5b": 32768,
    "qwen2.5-7b": 131072,
    "qwen3-1.7b": 40960,
    "qwen3-30b-a3b": 40960,
    "deepseek-v2-lite": 163840,
    "llama-3.2-1b": 131072,
    "llama-2-7b": 4096,
    "mistral-7b-v0.1": 32768,
}


def test_every_shape_is_held_to_its_published_size() -> None:
    assert set(SHAPES) == set(PARAMETERS) == set(CACHE_BYTES)


@pytest.mark.parametrize("name", SHAPES)
def test_shape_has_the_published_size(name: str) -> None:
    model = build_model(SHAPES[name])
    dtype = resolve_dtype(None, SHAPES[name])
    assert model.num_parameters == PARAMETERS[name]
    elements = sum(shape.numel for shape in model.kv_shapes)
    assert elements * dtype.itemsize == CACHE_BYTES[name]


@pytest.mark.parametrize("name", CONTEXTS)
def test_shape_has_the_published_context(name: str) -> None:
    assert read_config(SHAPES[name]).context == CONTEXTS[name]


def test_unknown_shape_lists_the_known_ones() -> None:
    with pytest.raises(OptionError, match=r"'gpt5'.*gpt2, gpt2-medium.*mistral-7b"):
        shape_config("gpt5")


def tiny_gpt2(**changes: object) -> dict[str, object]:
    tiny = {"vocab_size": 211, "n_positions": 32, "n_embd": 48, "n_layer": 2, "n_head": 3}
    return {**SHAPES["gpt2"], **tiny, **changes}


def test_random_weights_are_seeded_normal_and_tied() -> None:
    model = random_model(tiny_gpt2(), torch.float32, seed=5)
    again = random_model(tiny_gpt2(), torch.float32, seed=5)
    other = random_model(tiny_gpt2(), torch.float32, seed=6)
    assert not model.training
    assert model.head.weight is model.embedding.weight
    weights = model.state_dict()
    assert all(torch.equal(weights[n], x) for n, x in again.state_dict().items())
    assert not torch.equal(weights["blocks.0.up.weight"], other.state_dict()["blocks.0.up.weight"])
    assert not torch.equal(weights["blocks.0.up.weight"], weights["blocks.1.up.weight"])
    drawn = torch.cat([x.flatten() for n, x in weights.items() if "norm" not in n])
    assert drawn.std() == pytest.approx(0.02, rel=0.02)
    assert drawn.mean() == pytest.approx(0, abs=5e-4)
    for name, value in weights.items():
        if "norm" in name:
            assert torch.equal(value, torch.full_like(value, float(name.endswith("weight"))))


def test_random_norms_of_gemma_multiply_by_one() -> None:
    tiny = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "vocab_size": 99}
    model = random_model({**SHAPES["gemma-3-1b"], **tiny}, torch.float32, seed=0)
    norms = [x for name, x in model.named_parameters() if "norm" in name]
    assert len(norms) == 2 * 6 + 1
    assert not any(x.any() for x in norms)


def test_random_weights_of_a_large_table_repeat_no_row() -> None:
    # More elements than are drawn: the draws are laid end to end more than once.
    model = random_model(tiny_gpt2(vocab_size=50257), torch.float32, seed=0)
    table = model.get_parameter("embedding.weight")
    assert table.numel() > 2 * 1_048_583
    assert len(torch.unique(table[:, 0:4], dim=0)) == len(table)


def test_random_weights_take_dtype_and_leave_nothing_on_meta() -> None:
    model = random_model(tiny_gpt2(tie_word_embeddings=False), torch.bfloat16, seed=0)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert isinstance(model.head.weight, nn.Parameter)
    assert model.head.weight is not model.embedding.weight


def test_weights_beyond_the_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from kept.bench import random_weights
    from kept.machine import Machine

    small = Machine("a cpu", "x86_64", "Linux", 2, None, 8 * 10**9, 2 * 10**9, ())
    monkeypatch.setattr(random_weights, "describe_machine", lambda: small)
    with pytest.raises(OptionError, match=r"12\.6 GiB as bfloat16 and 1\.9 GiB .* smaller shape"):
        random_subject("llama-2-7b")


@pytest.mark.parametrize("name", SHAPES)
def test_a_report_can_say_what_was_measured(name: str) -> None:
    config = read_config(SHAPES[name])
    assert json.loads(json.dumps(config_fields(config)))["vocab_size"] == config.vocab_size
