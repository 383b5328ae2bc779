"""The best next tokens of a search: the few likeliest of each beam find what whole rows do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kept.sampling import (
    Likeliest,
    ResolvedParams,
    SamplingParams,
    TokenHistory,
    best_candidates,
    drawn_candidates,
    num_likeliest,
    process_scores,
)

V, BEAMS, EOS, COUNT = 400, 3, 3, 6
TEXT = [1, 7, 1, 9, EOS, 9, 9]
INF = math.inf

some_options = st.fixed_dictionaries(
    {},
    optional={
        "no_repeat_ngram_size": st.sampled_from([1, 2]),
        "min_new_tokens": st.just(5),
        "suppress_tokens": st.just(list(range(0, 400, 3))),
        "bad_words_ids": st.just([[9], [9, 8], [EOS]]),
    },
)


def params_of(options: dict[str, Any]) -> ResolvedParams:
    return SamplingParams(**options, num_beams=BEAMS, eos_token_id=EOS, seed=1).resolve()


def logits_of(seed: int, grain: float, hidden: int = 0) -> torch.Tensor:
    """Of a coarse grain many tie; two beams have the same."""
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(BEAMS, V, generator=generator) * 3 / grain).round() * grain
    logits[2] = logits[1]
    logits[:, torch.randperm(V, generator=generator)[:hidden]] = -INF
    return logits


def largest(logits: torch.Tensor, count: int) -> Likeliest:
    values, tokens = logits.sort(dim=1, descending=True, stable=True)
    return Likeliest(values[:, :count].numpy(), tokens[:, :count].numpy())


def histories() -> list[TokenHistory]:
    return [TokenHistory(TEXT) for _ in range(BEAMS)]


@given(
    options=some_options,
    seed=st.integers(0, 2**32),
    grain=st.sampled_from([1e-6, 0.5, 4.0]),
    hidden=st.sampled_from([0, 0, 380, 399]),
    before=st.lists(st.sampled_from([0.0, -0.5, -7.25, -1e9]), min_size=BEAMS, max_size=BEAMS),
    extra=st.sampled_from([None, 1, 6, 400]),
)
def test_few_find_what_whole_rows_do(
    options: dict[str, Any],
    seed: int,
    grain: float,
    hidden: int,
    before: list[float],
    extra: int | None,
) -> None:
    params, logits = params_of(options), logits_of(seed, grain, hidden)
    count = num_likeliest([params], BEAMS, V) if extra is None else extra
    assert count
    whole = best_candidates(logits, params, histories(), before)
    found = best_candidates(logits, params, histories(), before, largest(logits, count))
    assert found == whole


@given(seed=st.integers(0, 2**32), options=some_options)
def test_they_are_the_best_by_the_reference(seed: int, options: dict[str, Any]) -> None:
    params, logits = params_of(options), logits_of(seed, 1e-6)
    before = [-1.0, -1.5, -4.0]
    rows = [
        process_scores(row.log_softmax(-1), params, history) + score
        for row, history, score in zip(logits, histories(), before, strict=True)
    ]
    expected = torch.stack(rows).flatten().sort(descending=True).values[:COUNT]
    found = best_candidates(logits, params, histories(), before, largest(logits, 64))
    np.testing.assert_allclose(found.scores, expected.numpy(), atol=1e-5)
    at = [rows[beam][token] for beam, token in zip(found.beams, found.tokens, strict=True)]
    np.testing.assert_allclose(found.scores, np.array(at), atol=1e-5)


def test_equal_ones_come_by_beam_and_token() -> None:
    params, logits = params_of({}), torch.zeros(BEAMS, V)
    for few in (None, largest(logits, 7)):
        found = best_candidates(logits, params, histories(), [0.0, -1.0, 0.0], few)
        assert found.beams == [0] * COUNT
        assert found.tokens == list(range(COUNT))


@pytest.mark.parametrize("number", [math.nan, INF, -INF])
def test_no_beam_can_go_on(number: float) -> None:
    params, logits = params_of({}), torch.full((BEAMS, V), number)
    for few in (None, largest(logits, 7)):
        found = best_candidates(logits, params, histories(), [0.0] * BEAMS, few)
        assert not math.isfinite(found.scores[0])


def test_draws_score_as_the_best_do() -> None:
    params, logits = params_of({"do_sample": True}), logits_of(1, 1e-6)
    found = drawn_candidates(logits, params, histories(), [0.0, -1.0, -2.0], (1, 7))
    best = best_candidates(logits, params_of({}), histories(), [0.0, -1.0, -2.0])
    scores = dict(zip(zip(best.beams, best.tokens, strict=True), best.scores, strict=True))
    drawn = dict(zip(zip(found.beams, found.tokens, strict=True), found.scores, strict=True))
    assert len(drawn) == COUNT
    assert all(scores[place] == drawn[place] for place in scores.keys() & drawn.keys())
