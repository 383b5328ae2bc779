"""Texts that outgrow the trained context of LongRoPE, where all of their keys become others."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kept import LLM

from .generation import hf_generate, prompts
from .zoo import DYNAMIC_CONTEXT, Pair

NEW = 12
CACHES: list[dict[str, Any]] = [
    {},
    {"cache_implementation": "static"},
    {"cache_implementation": "sliding", "sliding_window": 80},
    {"cache_implementation": "evicting", "kv_budget": 64},
    {"use_cache": False},
]
phi3 = pytest.mark.parametrize("pair", ["phi3 long"], indirect=True)


@torch.no_grad()
def fresh(pair: Pair, prompt: list[int]) -> list[int]:
    """transformers' likeliest tokens, each from a pass over all before it."""
    text = list(prompt)
    for _ in range(NEW):
        text.append(int(pair.hf(torch.tensor([text]), use_cache=False).logits[0, -1].argmax()))
    return text[len(prompt) :]


@phi3
@pytest.mark.parametrize("options", CACHES, ids=lambda o: o.get("cache_implementation", "other"))
def test_a_text_is_what_fresh_passes_make_of_it(pair: Pair, options: dict[str, Any]) -> None:
    """On either side of that length and across it, side by side, in chunks and at once."""
    several = prompts(*(DYNAMIC_CONTEXT + n for n in (-9, -1, 0, 1)))
    expected = [fresh(pair, prompt) for prompt in several]
    for llm in (pair.llm, LLM(pair.folder, prefill_chunk=3)):
        found = llm.generate(several, max_new_tokens=NEW, **options)
        assert [list(c.token_ids) for c in found] == expected


@phi3
def test_and_what_transformers_generates(pair: Pair) -> None:
    [prompt] = prompts(DYNAMIC_CONTEXT - 5)
    [found] = pair.llm.generate([prompt], max_new_tokens=NEW)
    [expected] = hf_generate(pair, prompt, max_new_tokens=NEW)
    assert list(found.token_ids) == list(expected)


@phi3
def test_beams_go_across_it(pair: Pair) -> None:
    [prompt] = prompts(DYNAMIC_CONTEXT - 5)
    [expected] = pair.llm.generate([prompt], num_beams=3, max_new_tokens=NEW, use_cache=False)
    for llm in (pair.llm, LLM(pair.folder, prefill_chunk=5)):
        [found] = llm.generate([prompt], num_beams=3, max_new_tokens=NEW)
        assert found.token_ids == expected.token_ids
        assert found.score == pytest.approx(expected.score, abs=1e-4)


@phi3
def test_a_chat_that_grows_across_it(pair: Pair) -> None:
    [told] = prompts(DYNAMIC_CONTEXT - 6)
    for _ in range(3):
        [found] = pair.llm.generate([told], max_new_tokens=4)
        [expected] = pair.llm.generate([told], max_new_tokens=4, use_cache=False)
        assert found.token_ids == expected.token_ids
        told = [*told, *found.token_ids]
