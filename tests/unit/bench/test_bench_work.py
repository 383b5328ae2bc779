"""What a pass is said to read and compute, against counts made by hand."""

import pytest
import torch
from tiny_config import TINY
from torch import nn

from kept.bench.random_weights import random_model
from kept.bench.subject import Subject
from kept.bench.work import Costs, Work, stored_bytes, weight_bytes

# Two layers: q 16x16, k and v 8x16, o 16x16, and three of 16x24; the head has 61 rows of 16.
BLOCKS = 2 * (16 * 16 + 2 * 8 * 16 + 16 * 16 + 3 * 16 * 24)
HEAD = 61 * 16
KV = 2 * 2 * 2 * 4  # numbers a token stores: layers, keys and values, heads, head size
PAIR = 2 * 2 * 4 * 4  # multiplications of a pair: layers, two products, heads, head size


def test_a_decode_step_of_several_sequences(tiny: Subject) -> None:
    work = tiny.costs.decode_step([10, 30])
    assert work.weight_bytes == 4 * tiny.num_parameters
    assert work.kv_bytes == (10 + 30) * KV * 4
    assert work.operations == 2 * (2 * (BLOCKS + HEAD) + PAIR * (10 + 30))
    assert work.intensity == work.operations / (work.weight_bytes + work.kv_bytes)


def test_reading_prompts(tiny: Subject) -> None:
    work = tiny.costs.prompt(5, batch=3)
    assert work.operations == 3 * 2 * (5 * BLOCKS + HEAD + PAIR * (1 + 2 + 3 + 4 + 5))
    assert work.kv_bytes == 3 * 5 * KV * 4


def test_a_window_bounds_what_is_attended() -> None:
    config = {**TINY, "model_type": "mistral", "sliding_window": 4}
    costs = Costs.of(random_model(config, torch.float32, seed=0))
    assert costs.kv_bytes(10) == 4 * KV * 4
    assert costs.prompt(6).operations - costs.prompt(5).operations == 2 * (BLOCKS + PAIR * 4)
    assert costs.decode_step([6]).operations == costs.decode_step([9]).operations


def test_a_narrow_cache_reads_fewer_bytes(tiny: Subject) -> None:
    assert Costs.of(tiny.model, "bfloat16").kv_bytes(10) == 10 * KV * 2
    # A byte for each number, and scales beside them.
    assert 10 * KV < Costs.of(tiny.model, "int8").kv_bytes(10) < 10 * KV * 4


def test_an_untied_table_is_stored_and_not_read() -> None:
    model = random_model({**TINY, "tie_word_embeddings": False}, torch.bfloat16, seed=0)
    assert stored_bytes(model) - weight_bytes(model) == 2 * HEAD
    assert stored_bytes(model) == 2 * model.num_parameters


def test_packed_weights_count_as_they_are_held(tiny: Subject) -> None:
    before, linear = tiny.costs, tiny.model.get_submodule("blocks.0.mlp.down")
    del linear.weight
    linear.register_buffer("codes", torch.zeros(16, 12, dtype=torch.uint8))
    linear.register_buffer("scales", torch.zeros(16, 1))
    after = Costs.of(tiny.model)
    assert before.weight_bytes - after.weight_bytes == 4 * 16 * 24 - (16 * 12 + 4 * 16)
    assert after.block_elements == before.block_elements == BLOCKS  # the same arithmetic


def test_modules_that_share_a_parameter_read_it_once() -> None:
    model = random_model(TINY, torch.float32, seed=0)
    assert isinstance(model.head.weight, nn.Parameter)
    assert weight_bytes(model) == stored_bytes(model) == 4 * model.num_parameters


def test_the_floor_is_the_slower_of_reading_and_arithmetic() -> None:
    work = Work(weight_bytes=800, kv_bytes=200, operations=5000)
    assert work.floor(bandwidth=100, peak=1000) == 10
    assert work.floor(bandwidth=1000, peak=1000) == 5
    assert work.floor(bandwidth=1000, peak=None) == pytest.approx(1)
