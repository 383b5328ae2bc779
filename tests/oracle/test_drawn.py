"""Sampled texts: a function of the seed alone; and log-probabilities against transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from .generation import prompts
from .zoo import Pair

SAMPLED: dict[str, Any] = {"max_new_tokens": 16, "temperature": 1.1, "top_p": 0.95}


@pytest.mark.parametrize("pair", ["gpt2", "qwen2 window"], indirect=True)
def test_a_seed_draws_the_same_alone_and_in_a_batch(pair: Pair) -> None:
    several = prompts(5, 12, 3)
    together = pair.llm.generate(several, seed=9, **SAMPLED)
    alone = [pair.llm.generate([prompt], seed=9, **SAMPLED)[0] for prompt in several]
    assert [c.token_ids for c in together] == [c.token_ids for c in alone]
    assert {c.seed for c in together} == {9}
    for options in ({"use_cache": False}, {"cache_implementation": "static"}):
        again = pair.llm.generate(several, seed=9, **SAMPLED, **options)
        assert [c.token_ids for c in again] == [c.token_ids for c in together]
    assert pair.llm.generate(several, seed=10, **SAMPLED)[0].token_ids != alone[0].token_ids


@pytest.mark.parametrize("pair", ["gpt2"], indirect=True)
def test_return_sequences_differ_and_repeat_by_their_seed(pair: Pair) -> None:
    several = prompts(5, 12)
    found = pair.llm.generate(several, seed=1, num_return_sequences=4, **SAMPLED)
    assert [(c.prompt_index, c.index) for c in found] == [(i // 4, i % 4) for i in range(8)]
    assert len({c.token_ids for c in found}) == 8
    for completion in found:
        prompt = several[completion.prompt_index]
        [again] = pair.llm.generate([prompt], seed=completion.seed, **SAMPLED)
        assert again.token_ids == completion.token_ids


@pytest.mark.parametrize("pair", ["gpt2"], indirect=True)
def test_without_a_seed_equal_prompts_differ_and_can_be_repeated(pair: Pair) -> None:
    [prompt] = prompts(6)
    found = pair.llm.generate([prompt] * 3, **SAMPLED)
    assert len({c.token_ids for c in found}) == 3
    for completion in found:
        [again] = pair.llm.generate([prompt], seed=completion.seed, **SAMPLED)
        assert again.token_ids == completion.token_ids


@pytest.mark.parametrize("options", [SAMPLED, {"max_new_tokens": 16}], ids=["drawn", "greedy"])
@pytest.mark.parametrize("pair", ["llama", "mistral"], indirect=True)
@torch.no_grad()
def test_logprobs(pair: Pair, options: dict[str, Any]) -> None:
    several = prompts(8, 3)
    found = pair.llm.generate(several, logprobs=3, repetition_penalty=1.2, **options)
    for prompt, completion in zip(several, found, strict=True):
        ids = torch.tensor([[*prompt, *completion.token_ids]])
        expected = pair.hf(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        assert completion.logprobs is not None
        assert len(completion.logprobs) == 16
        for token, row, entry in zip(
            completion.token_ids, expected, completion.logprobs, strict=True
        ):
            assert entry.chosen.token_id == token
            assert entry.chosen.logprob == pytest.approx(float(row[token]), abs=1e-4)
            values, ids_of_top = row.topk(3)
            assert [t.token_id for t in entry.top] == ids_of_top.tolist()
            assert [t.logprob for t in entry.top] == pytest.approx(values.tolist(), abs=1e-4)
    assert pair.llm.generate(several, max_new_tokens=2)[0].logprobs is None


@pytest.mark.parametrize("pair", ["llama"], indirect=True)
def test_beams_can_be_drawn(pair: Pair) -> None:
    options = {**SAMPLED, "num_beams": 3, "num_return_sequences": 2, "seed": 5}
    several = prompts(8, 3)
    found = [c.token_ids for c in pair.llm.generate(several, **options)]
    alone = [c.token_ids for p in several for c in pair.llm.generate([p], **options)]
    assert found == alone
    uncached = [c.token_ids for c in pair.llm.generate(several, use_cache=False, **options)]
    assert found == uncached
    assert len(set(found)) == 4


@pytest.mark.parametrize("pair", ["llama"], indirect=True)
def test_drawn_beams_repeat_by_their_seed(pair: Pair) -> None:
    options = {**SAMPLED, "num_beams": 3}
    several = prompts(8, 3)
    found = pair.llm.generate(several, num_return_sequences=3, **options)
    for completion in found:
        again = pair.llm.generate(
            [several[completion.prompt_index]],
            seed=completion.seed,
            num_return_sequences=completion.index + 1,
            **options,
        )
        assert again[completion.index].token_ids == completion.token_ids
        assert again[completion.index].score == pytest.approx(completion.score)
