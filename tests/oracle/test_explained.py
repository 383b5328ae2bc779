"""The attention that is explained, against transformers' `output_attentions`."""

from collections.abc import Callable

import pytest
import torch

import kept
from kept.explain.codecs import codec_effects
from kept.explain.explanation import triangle
from kept.explain.recording import Recording, record_generation

from .zoo import FEW, Pair

PROMPT = [5, 17, 3, 88, 41, 17, 3, 9]


def record(pair: Pair, num_new: int) -> Recording:
    params = kept.SamplingParams(max_new_tokens=num_new, do_sample=False)
    resolved, _ = pair.llm.resolve(params, {})
    return record_generation(pair.llm, PROMPT, resolved)


@pytest.mark.parametrize("pair", [*FEW, "llama yarn mscale"], indirect=True)
def test_attention_is_that_of_transformers(pair: Pair) -> None:
    found = record(pair, 5)
    read = torch.tensor([found.token_ids[: found.num_read]])
    with torch.no_grad():
        out = pair.hf(read, output_attentions=True)
    assert len(found.attention) == len(out.attentions)
    for ours, theirs in zip(found.attention, out.attentions, strict=True):
        torch.testing.assert_close(ours, theirs[0], rtol=1e-4, atol=1e-5)
    drawn = out.logits[0, len(PROMPT) - 1 :].argmax(-1).tolist()
    assert [step.drawn for step in found.steps] == drawn


@pytest.mark.parametrize("pair", FEW, indirect=True)
def test_the_recorded_queries_over_the_recorded_keys_are_that_attention(pair: Pair) -> None:
    found = record(pair, 4)
    [again] = codec_effects(found, pair.model.kv_shapes, ["float32"])
    for ours, recorded in zip(again.weights, found.attention, strict=True):
        torch.testing.assert_close(ours, recorded, rtol=1e-4, atol=1e-5)


def test_the_triangle_is_the_lower_one(made: Callable[[str], Pair]) -> None:
    weights = record(made("gpt2"), 2).attention[0]
    assert not weights.triu(1).any()
    rows = triangle(weights[1])
    assert [len(row) for row in rows] == list(range(1, len(PROMPT) + 2))
    assert rows[4] == pytest.approx(weights[1, 4, :5].tolist(), abs=1e-6)
