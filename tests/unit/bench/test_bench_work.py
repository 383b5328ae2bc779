"""What a pass is said to read and compute, against counts made by hand."""

import pytest
import torch
from tiny_config import TINY
from torch import nn

from kept.bench.random_weights import random_model
from kept.bench.subject import Subject
from kept.bench.work import Costs, Work, stored_bytes, weight_bytes
from kept.models.packing import prepare

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


EXPERT = 3 * 16 * 8  # numbers in one of six experts, of which a token goes to two
SPARSE = {
    **TINY,
    "model_type": "qwen2_moe",
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
    "shared_expert_intermediate_size": 24,
    "mlp_only_layers": [1],
}


def test_experts_that_no_token_chose_are_not_read() -> None:
    model = random_model(SPARSE, torch.float32, seed=0)
    costs = Costs.of(model)
    rest = 4 * model.num_parameters - 4 * 6 * EXPERT
    assert costs.weight_bytes == weight_bytes(model) == rest
    assert costs.decode_step([9]).weight_bytes == rest + 4 * 2 * EXPERT
    assert costs.prompt(1).weight_bytes == rest + 4 * 2 * EXPERT
    # Of two tokens each expert is missed by (2/3) ** 2.
    assert costs.decode_step([9, 9]).weight_bytes == rest + round(4 * 6 * (1 - 4 / 9) * EXPERT)
    assert costs.prompt(500).weight_bytes == stored_bytes(model) == 4 * model.num_parameters
    assert costs.block_elements == BLOCKS + 2 * EXPERT


def test_layers_with_experts_add_up() -> None:
    model = random_model(SPARSE, torch.float32, seed=0)
    whole, layers = Costs.of(model), Costs.of_layers(model)
    assert [len(layer.experts) for layer in layers] == [1, 0]
    assert sum(layer.block_elements for layer in layers) == whole.block_elements
    outside = 4 * (HEAD + 16)  # the table, and the last norm
    assert sum(layer.pass_bytes(3) for layer in layers) + outside == whole.pass_bytes(3)


def test_packed_experts_count_as_they_are_held() -> None:
    model = random_model(SPARSE, torch.bfloat16, seed=0)
    before = Costs.of(model)
    prepare(model, "int4")
    if model.native is None:
        pytest.skip("installed without a C++ compiler")
    after = Costs.of(model)
    assert after.block_elements == before.block_elements
    # Of 16 gates and ups, and 16 outputs padded to 32, of 32 padded inputs each.
    assert after.experts[0].num_bytes == 2 * 32 * 32 // 2 + 2 * 32 * 2


def test_the_floor_is_the_slower_of_reading_and_arithmetic() -> None:
    work = Work(weight_bytes=800, kv_bytes=200, operations=5000)
    assert work.floor(bandwidth=100, peak=1000) == 10
    assert work.floor(bandwidth=1000, peak=1000) == 5
    assert work.floor(bandwidth=1000, peak=None) == pytest.approx(1)


def test_latents_are_attended_as_they_are_and_their_matrices_count() -> None:
    """Two heads of 64 numbers and 16 that turn, over latents of 32, and values of 96."""
    config = {
        **TINY,
        "model_type": "deepseek_v3",
        "architectures": ["DeepseekV3ForCausalLM"],
        "num_attention_heads": 2,
        "q_lora_rank": None,
        "kv_lora_rank": 32,
        "qk_nope_head_dim": 64,
        "qk_rope_head_dim": 16,
        "v_head_dim": 96,
        "first_k_dense_replace": 2,
    }
    model = random_model(config, torch.float32, seed=0)
    costs = Costs.of(model)
    latents = 2 * 32 * (64 + 96)
    attention = 16 * 2 * 80 + 16 * 48 + latents + 2 * 96 * 16
    assert costs.block_elements == 2 * (attention + 3 * 16 * 24)
    assert costs.kv_bytes(10) == 10 * 2 * 48 * 4
    assert costs.operations(0, 1, 0) == 2 * (costs.block_elements + 2 * 2 * (48 + 32))
    held = weight_bytes(model)
    prepare(model)
    if model.native is not None:  # in panels of 32 outputs and inputs; of these none is filled up
        rest = {"q", "kv_a", "out", "gate_up", "down", "head"}
        filled = [m for n, m in model.named_modules() if n.rpartition(".")[2] in rest]
        grown = sum(m.weight.num_bytes - 4 * m.weight.num_out * m.weight.num_in for m in filled)
        assert weight_bytes(model) == held + grown
