"""Greedy search: the same token ids as transformers, over 64 tokens."""

from __future__ import annotations

from typing import Any

import pytest

from .generation import hf_generate, likeliest, prompts
from .zoo import DYNAMIC_CONTEXT, FEW, REST, Pair


@pytest.mark.parametrize("pair", REST, indirect=True)
def test_each_id_is_the_likeliest(pair: Pair) -> None:
    """One pass of transformers over prompt and text: each token must be the argmax before it."""
    [prompt] = prompts(DYNAMIC_CONTEXT + 4)
    [found] = pair.llm.generate([prompt], max_new_tokens=64)
    if "dynamic" in pair.name:  # its keys depend on when they were computed
        [expected] = hf_generate(pair, prompt)
    else:
        expected = likeliest(pair, prompt, found.token_ids)
    assert found.token_ids == expected
    assert len(found.token_ids) == 64
    assert found.finish_reason == "length"
    assert found.prompt_tokens == len(prompt)


@pytest.mark.parametrize("pair", ["gemma3", "gpt2", "mistral"], indirect=True)
def test_generate_against_generate(pair: Pair) -> None:
    [prompt] = prompts(7)
    expected = hf_generate(pair, prompt)
    found = pair.llm.generate([prompt], max_new_tokens=64)
    assert [c.token_ids for c in found] == expected


@pytest.mark.parametrize(
    "options",
    [
        {"cache_implementation": "static"},
        {"cache_implementation": "sliding", "sliding_window": 80},
        {"use_cache": False},
    ],
    ids=["static", "sliding", "none"],
)
@pytest.mark.parametrize("pair", FEW, indirect=True)
def test_every_cache_gives_the_same_ids_in_a_batch(pair: Pair, options: dict[str, Any]) -> None:
    three = prompts(3, 17, 8)
    found = pair.llm.generate(three, max_new_tokens=24, **options)
    for prompt, completion in zip(three, found, strict=True):
        assert completion.token_ids == likeliest(pair, prompt, completion.token_ids)
    assert [c.prompt_index for c in found] == [0, 1, 2]


@pytest.mark.parametrize(
    "pair", ["gemma2", "gemma3", "gemma3 capped", "mistral", "qwen2 window"], indirect=True
)
def test_the_ring_of_the_models_own_window(pair: Pair) -> None:
    several = prompts(20, 2, 9)
    found = pair.llm.generate(several, max_new_tokens=40, cache_implementation="sliding")
    for prompt, completion in zip(several, found, strict=True):
        assert completion.token_ids == likeliest(pair, prompt, completion.token_ids)


@pytest.mark.parametrize("pair", ["gpt2"], indirect=True)
def test_several_eos_tokens(pair: Pair) -> None:
    several = prompts(9, 14, 4)
    free = [c.token_ids for c in pair.llm.generate(several, max_new_tokens=64)]
    eos = [free[0][7], free[1][20], free[2][63]]
    expected = [hf_generate(pair, prompt, eos_token_id=eos)[0] for prompt in several]
    found = pair.llm.generate(several, max_new_tokens=64, eos_token_id=eos)
    assert [c.token_ids for c in found] == expected
    for completion in found:
        ended = completion.token_ids[-1] in eos
        assert completion.finish_reason == ("stop" if ended else "length")
    assert any(c.finish_reason == "stop" and len(c.token_ids) < 64 for c in found)
    ignored = pair.llm.generate(several, max_new_tokens=64, ignore_eos=True)
    assert [c.token_ids for c in ignored] == free


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.4},
        {"repetition_penalty": 0.8},
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 3},
        {"min_new_tokens": 30},
        {"repetition_penalty": 1.2, "no_repeat_ngram_size": 2, "min_new_tokens": 12},
    ],
    ids=str,
)
@pytest.mark.parametrize("pair", ["llama"], indirect=True)
def test_processors_of_greedy_search(pair: Pair, options: dict[str, Any]) -> None:
    several = prompts(9, 14)
    free = pair.llm.generate(several, max_new_tokens=6)
    eos = sorted({completion.token_ids[-1] for completion in free})
    expected = [hf_generate(pair, p, eos_token_id=eos, **options)[0] for p in several]
    found = pair.llm.generate(several, max_new_tokens=64, eos_token_id=eos, **options)
    assert [c.token_ids for c in found] == expected
