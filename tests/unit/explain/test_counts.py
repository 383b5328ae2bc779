"""What a step is said to compute, against torch's own counter and the sum over layers."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kept.batch import pack
from kept.bench.random_weights import random_model
from kept.bench.work import Costs, num_pairs
from kept.cache import make_cache
from kept.explain.counts import Count, count_step
from kept.models import CausalLM
from kept.models.record import Record

_QWEN2 = {
    "model_type": "qwen2",
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
}
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": 61,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 96,
    },
    "llama": {**_QWEN2, "model_type": "llama"},
    "mistral": {**_QWEN2, "model_type": "mistral", "sliding_window": 4},
    "qwen2": {**_QWEN2, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
}
STEPS = ((0, 7), (7, 8), (8, 9))


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> CausalLM:
    return random_model(CONFIGS[request.param], torch.float32, seed=0).eval()


def masked(model: CausalLM, start: int, end: int) -> int:
    """Multiply-adds of pairs that the reference computes and then hides: it attends rectangles."""
    spare = 0
    for shape in model.kv_shapes:
        first = 0 if shape.window is None else max(0, start + 1 - shape.window)
        pairs = num_pairs(end, shape.window) - num_pairs(start, shape.window)
        spare += 2 * shape.head_dim * ((end - start) * (end - first) - pairs)
    return model.config.num_heads * spare


@torch.no_grad()
def test_multiply_adds_are_those_torch_counts(model: CausalLM) -> None:
    costs = Costs.of(model)
    cache = make_cache(model.kv_shapes)
    for start, end in STEPS:
        for use_cache, first in ((True, start), (False, 0)):
            batch = pack([[5] * (end - first)], past=[first], last_of=[True])
            with FlopCounterMode(display=False) as counter:
                model.run(batch, cache if use_cache else None, Record(want_attention=True))
            found = count_step(costs, start, end, use_cache)
            computed = found.multiply_adds + masked(model, first, end)
            assert counter.get_total_flops() == 2 * computed


def test_layers_and_head_make_the_model(model: CausalLM) -> None:
    whole, layers = Costs.of(model), Costs.of_layers(model)
    assert len(layers) == model.config.num_layers
    for start, end in STEPS:
        for use_cache in (True, False):
            found = count_step(whole, start, end, use_cache)
            each = [count_step(costs, start, end, use_cache) for costs in layers]
            total = sum(each, Count())
            assert total.multiply_adds + whole.head_elements == found.multiply_adds
            assert total.kv_bytes_read == found.kv_bytes_read
            assert total.kv_bytes_computed == found.kv_bytes_computed
            assert max(c.keys_read for c in each) == found.keys_read
    head = model.head.weight.nbytes + sum(p.nbytes for p in model.norm.parameters())
    assert sum(costs.weight_bytes for costs in layers) + head == whole.weight_bytes


def test_what_is_read_and_what_is_computed_are_all_there_is(model: CausalLM) -> None:
    costs = Costs.of(model, "int8")
    for start, end in STEPS:
        cached, anew = (count_step(costs, start, end, use_cache) for use_cache in (True, False))
        assert (cached.rows, anew.rows, anew.keys_read) == (end - start, end, 0)
        assert anew.kv_bytes_read == 0
        if end - start == 1:
            assert cached.kv_bytes_read + cached.kv_bytes_computed == costs.kv_bytes(end)


def test_a_step_of_several_tokens_past_the_prompt_is_refused() -> None:
    model = random_model(CONFIGS["llama"], torch.float32, seed=0)
    with pytest.raises(ValueError, match="from 3 to 5"):
        count_step(Costs.of(model), 3, 5, use_cache=True)
