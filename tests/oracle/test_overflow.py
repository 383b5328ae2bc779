"""The end of the context: stop there, or go on over the last tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from kept import ContextLengthError, OptionError

from .generation import likeliest, prompts
from .test_sliding import windowed_logits
from .zoo import FEW, SHORT, Pair

SHORTS = ["gemma2 short", "gemma3 short", "gpt2 short", "llama short"]


def check_moving_window(
    pair: Pair, prompt: Sequence[int], text: Sequence[int], hop: int, length: int = SHORT
) -> None:
    """Each token is the likeliest after the window, which moves on by `hop` when it is full."""
    tokens, offset = list(prompt), max(0, len(prompt) - length)
    for token in text:
        if len(tokens) - offset > length:
            offset += hop
        window = torch.tensor([tokens[offset:]])
        with torch.no_grad():
            assert token == int(pair.hf(window, use_cache=False).logits[0, -1].argmax())
        tokens.append(token)


@pytest.mark.parametrize(
    "options",
    [{}, {"cache_implementation": "static"}, {"use_cache": False}, {"num_beams": 2}],
    ids=str,
)
@pytest.mark.parametrize("pair", SHORTS, indirect=True)
def test_stop_reads_all_of_the_context(pair: Pair, options: dict[str, Any]) -> None:
    several = prompts(12, 20, 1, 19)
    found = pair.llm.generate(several, max_new_tokens=50, **options)
    for prompt, completion in zip(several, found, strict=True):
        assert len(completion.token_ids) == SHORT - len(prompt) + 1
        assert completion.finish_reason == "length"
        if "num_beams" not in options:
            assert completion.token_ids == likeliest(pair, prompt, completion.token_ids)


@pytest.mark.parametrize("pair", SHORTS, indirect=True)
def test_stop_refuses_a_longer_prompt(pair: Pair) -> None:
    with pytest.raises(ContextLengthError, match=r'has 21 tokens.*is 20.*overflow="slide"'):
        pair.llm.generate(prompts(5, 21), max_new_tokens=1)


@pytest.mark.parametrize(
    ("options", "hop"),
    [
        ({"slide_hop": 1}, 1),
        ({"slide_hop": 7}, 7),
        ({"slide_hop": 20}, 20),
        ({}, SHORT // 4),
        ({"slide_hop": 3, "cache_implementation": "static"}, 3),
        ({"use_cache": False}, 1),
    ],
    ids=str,
)
def test_slide_where_positions_are_absolute(made: Any, options: dict[str, Any], hop: int) -> None:
    pair = made("gpt2 short")
    several = prompts(4, 20, 33)
    found = pair.llm.generate(several, max_new_tokens=24, overflow="slide", **options)
    for prompt, completion in zip(several, found, strict=True):
        assert len(completion.token_ids) == 24
        check_moving_window(pair, prompt, completion.token_ids, hop)


@pytest.mark.parametrize(
    ("options", "hop"),
    [
        ({"use_cache": False}, 1),
        ({"cache_implementation": "static", "slide_hop": 6}, 6),
    ],
    ids=str,
)
def test_slide_by_reading_again_where_positions_are_relative(
    made: Any, options: dict[str, Any], hop: int
) -> None:
    pair = made("llama short")
    several = prompts(4, 33)
    found = pair.llm.generate(several, max_new_tokens=24, overflow="slide", **options)
    for prompt, completion in zip(several, found, strict=True):
        check_moving_window(pair, prompt, completion.token_ids, hop)


@pytest.mark.parametrize("options", [{}, {"cache_implementation": "sliding"}], ids=str)
def test_slide_in_a_ring_where_positions_are_relative(made: Any, options: dict[str, Any]) -> None:
    pair = made("llama short")
    several = prompts(4, 20, 33)
    found = pair.llm.generate(several, max_new_tokens=40, overflow="slide", **options)
    for prompt, completion in zip(several, found, strict=True):
        seen = prompt[-SHORT:]
        ids = torch.tensor([[*seen, *completion.token_ids[:-1]]])
        with torch.no_grad():
            expected = windowed_logits(pair, ids, SHORT, 0)[0, len(seen) - 1 :].argmax(-1)
        assert completion.token_ids == tuple(expected.tolist())


def test_slide_keeps_a_smaller_ring_and_its_sinks(made: Any) -> None:
    pair = made("llama short")
    [prompt] = prompts(9)
    [found] = pair.llm.generate(
        [prompt],
        max_new_tokens=30,
        overflow="slide",
        cache_implementation="sliding",
        sliding_window=6,
        num_sinks=2,
    )
    with torch.no_grad():
        logits = windowed_logits(pair, torch.tensor([[*prompt, *found.token_ids[:-1]]]), 6, 2)
    assert found.token_ids == tuple(logits[0, len(prompt) - 1 :].argmax(-1).tolist())


def test_beams_slide_too(made: Any) -> None:
    pair = made("gpt2 short")
    several = prompts(16, 25)
    options = {"max_new_tokens": 12, "num_beams": 3, "overflow": "slide"}
    found = pair.llm.generate(several, slide_hop=1, **options)
    plain = pair.llm.generate(several, use_cache=False, **options)
    assert [c.token_ids for c in found] == [c.token_ids for c in plain]


def test_a_hop_without_effect_is_refused(made: Any) -> None:
    for name, options, message in (
        ("llama short", {}, "slides without re-reading"),
        ("gpt2 short", {"use_cache": False}, "re-read at every token"),
        ("gpt2 short", {"slide_hop": 21}, "more than the context of 20"),
    ):
        with pytest.raises(OptionError, match=message):
            made(name).llm.generate([[1]], overflow="slide", **{"slide_hop": 2, **options})


@pytest.mark.parametrize("pair", [*FEW, "llama dynamic"], indirect=True)
def test_prompts_cut_into_chunks(pair: Pair) -> None:
    several = prompts(23, 2, 9)
    found = []
    try:
        for chunk in (512, 1, 3, 7):
            pair.llm.prefill_chunk = chunk
            completions = pair.llm.generate(several, max_new_tokens=10)
            found.append([c.token_ids for c in completions])
    finally:
        pair.llm.prefill_chunk = 512
    alone = [pair.llm.generate([p], max_new_tokens=10)[0].token_ids for p in several]
    assert found == [alone] * 4
