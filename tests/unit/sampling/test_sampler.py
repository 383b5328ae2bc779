"""The sampler: its distribution, what a draw may depend on, greedy rows, log-probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kept.errors import OptionError, SamplingError
from kept.sampling import (
    Key,
    ResolvedParams,
    SamplingParams,
    TokenHistory,
    derive_seed,
    draw,
    draw_distinct,
    fresh_seed,
    sample,
    token_logprobs,
)
from kept.sampling.draw import invert, uniforms

V = 61
INF = float("inf")
HISTORY = TokenHistory([1])


def _params(**options: Any) -> ResolvedParams:
    return SamplingParams(**options).resolve()


def _logits(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, V, generator=torch.Generator().manual_seed(seed)) * 3


def _chi_square(counts: np.ndarray[Any, Any], probabilities: np.ndarray[Any, Any]) -> float:
    expected = probabilities * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


def test_draws_follow_the_distribution() -> None:
    scores = torch.tensor([0.0, 1.0, -1.0, -INF, 2.0, 0.5, -0.5, 1.5])
    possible = torch.isfinite(scores).numpy()
    for seed in range(2):
        draws = [draw(scores, Key(seed, position)) for position in range(3000)]
        counts = np.bincount(draws, minlength=8)
        assert counts[3] == 0
        # Six degrees of freedom: above 27.9 in one run of ten thousand.
        statistic = _chi_square(counts[possible], scores.softmax(-1).double().numpy()[possible])
        assert statistic < 27.9


def test_neighbouring_seeds_and_positions_are_unrelated() -> None:
    by_seed = np.array([uniforms((seed, 7), 1)[0] for seed in range(2000)])
    by_position = np.array([uniforms((7, position), 1)[0] for position in range(2000)])
    for values in (by_seed, by_position):
        counts = np.histogram(values, bins=16, range=(0, 1))[0]
        assert _chi_square(counts, np.full(16, 1 / 16)) < 44.3  # 15 degrees, one in ten thousand
        assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.1


def test_the_stream_of_numbers_never_changes() -> None:
    # A seed a user wrote down must keep meaning the same text.
    assert uniforms((0, 0), 2).tolist() == [0.011546754286331562, 0.24154919656271812]
    assert uniforms((2**64 - 1, 2**40), 1).tolist() == [0.7846576271824589]
    assert derive_seed(42, 3) == 6415056076439318


@given(
    weights=st.lists(st.sampled_from([0.0, 1e-300, 1e-17, 0.25, 1.0, 3.0]), min_size=1, max_size=20)
    .filter(any)
    .map(np.array),
    u=st.floats(0, 1) | st.sampled_from([0.0, 1 - 2.0**-53, 1.0]),
)
def test_inverting_never_gives_a_token_of_probability_zero(
    weights: np.ndarray[Any, np.dtype[np.float64]], u: float
) -> None:
    assert weights[invert(weights, u)] > 0


def test_inverting_reads_in_order_of_token_id() -> None:
    weights = np.array([0.0, 1.0, 0.0, 2.0, 1.0, 0.0])
    picks = [invert(weights, u) for u in (0.0, 0.2499, 0.25, 0.7499, 0.75, 1.0)]
    assert picks == [1, 1, 3, 3, 4, 4]


def test_distinct_draws_are_distinct_and_run_out() -> None:
    scores = torch.tensor([0.0, -INF, 1.0, 2.0])
    first = [draw_distinct(scores, 3, Key(1, i)) for i in range(600)]
    assert all(sorted(drawn) == [0, 2, 3] for drawn in first)
    counts = np.bincount([drawn[0] for drawn in first], minlength=4)
    assert _chi_square(counts[[0, 2, 3]], scores[[0, 2, 3]].softmax(-1).double().numpy()) < 18.4
    with pytest.raises(SamplingError, match="only 3 are possible"):
        draw_distinct(scores, 4, Key(1, 0))


MIXED: list[dict[str, Any]] = [
    {},
    {"temperature": 0.8, "logprobs": 2},
    {"temperature": 1.3, "top_k": 10, "top_p": 0.9},
    {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2},
    {"temperature": 0.9, "min_p": 0.05, "top_k": 0, "logprobs": 0},
    {"min_new_tokens": 5, "eos_token_id": 3, "logprobs": 5},
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_gives_the_same_alone_and_among_others(dtype: torch.dtype) -> None:
    logits = _logits(len(MIXED)).to(dtype)
    params = [_params(**options) for options in MIXED]
    histories = [TokenHistory([1, 2, 1, row]) for row in range(len(MIXED))]
    keys = [Key(100 + row, 4 + row) for row in range(len(MIXED))]
    together = sample(logits, params, histories, keys)
    order = [4, 0, 5, 2, 3, 1]
    shuffled = sample(
        logits[order],
        [params[i] for i in order],
        [histories[i] for i in order],
        [keys[i] for i in order],
    )
    for row in range(len(MIXED)):
        alone = sample(logits[row : row + 1], [params[row]], [histories[row]], [keys[row]])
        assert alone.token_ids[0] == together.token_ids[row]
        assert alone.logprobs[0] == together.logprobs[row]
        assert shuffled.token_ids[order.index(row)] == together.token_ids[row]
        assert (together.logprobs[row] is not None) is ("logprobs" in MIXED[row])


def test_greedy_rows_are_the_argmax_and_the_first_among_equals() -> None:
    logits = _logits(5)
    logits[3] = 0.0
    result = sample(logits, [_params()] * 5, [HISTORY] * 5, [Key(0, 1)] * 5)
    assert result.token_ids == tuple(logits.argmax(-1).tolist())
    assert result.token_ids[3] == 0
    assert result.logprobs == (None,) * 5


def test_keys_decide_and_only_they() -> None:
    logits, params = _logits(1), [_params(temperature=2.0, top_k=0)]

    def token(seed: int, position: int) -> int:
        return sample(logits, params, [HISTORY], [(seed, position)]).token_ids[0]

    runs = [[token(9, position) for position in range(30)] for _ in range(2)]
    assert runs[0] == runs[1]
    assert len(set(runs[0])) > 5
    assert [token(9, position) for position in reversed(range(30))] == runs[0][::-1]
    assert [token(10, position) for position in range(30)] != runs[0]


def test_seeds() -> None:
    assert fresh_seed() != fresh_seed()
    derived = [derive_seed(5, index) for index in range(50)]
    assert derived[0] == 5
    assert len(set(derived)) == 50
    assert all(0 <= seed < 2**53 for seed in derived)


def test_an_empty_batch_has_no_tokens() -> None:
    assert sample(torch.empty(0, V), [], [], []).token_ids == ()


def test_logits_are_not_changed() -> None:
    logits = _logits(len(MIXED))
    before = logits.clone()
    count = len(MIXED)
    params = [_params(**options) for options in MIXED]
    sample(logits, params, [TokenHistory([1, 2, 1])] * count, [Key(0, 3)] * count)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("options", MIXED)
@pytest.mark.parametrize("bad", [float("nan"), INF])
def test_nan_and_infinity_are_refused(options: dict[str, Any], bad: float) -> None:
    logits = _logits(3)
    logits[1, 7] = bad
    params = [_params(), _params(**options), _params()]
    with pytest.raises(SamplingError, match=f"row 1: the logits hold {bad}"):
        sample(logits, params, [TokenHistory([1])] * 3, [Key(0, 1)] * 3)


def test_a_row_without_possible_tokens_is_refused() -> None:
    logits = _logits(2)
    logits[1] = -INF
    with pytest.raises(SamplingError, match="row 1: every logit is -inf"):
        sample(logits, [_params()] * 2, [HISTORY] * 2, [Key(0, 1)] * 2)


def test_processors_that_leave_nothing_are_named() -> None:
    logits = torch.full((1, V), -INF)
    logits[0, 4] = 1.0
    history = [TokenHistory([4, 4])]
    with pytest.raises(SamplingError, match=r"after no_repeat_ngram_size=1; loosen"):
        sample(logits, [_params(no_repeat_ngram_size=1)], history, [Key(0, 2)])
    with pytest.raises(SamplingError, match=r"no longer finite after temperature=1e-300"):
        sample(_logits(1), [_params(temperature=1e-300)], history, [Key(0, 2)])


@pytest.mark.parametrize(
    ("shape", "count"), [((2, V), 1), ((1, V), 2), ((V,), 1), ((1, 0), 1), ((1, 1, V), 1)]
)
def test_arguments_that_do_not_fit_are_refused(shape: tuple[int, ...], count: int) -> None:
    with pytest.raises(OptionError, match="pass"):
        sample(torch.zeros(shape), [_params()] * count, [HISTORY] * count, [Key(0, 1)] * count)


def test_logprobs_are_of_the_unprocessed_distribution() -> None:
    logits = _logits(1)
    logits[0, 10] = -INF
    params = _params(temperature=0.4, top_k=3, repetition_penalty=1.5, logprobs=4)
    result = sample(logits, [params], [TokenHistory([1, 2])], [Key(3, 2)])
    reported = result.logprobs[0]
    assert reported is not None
    expected = logits[0].log_softmax(-1)
    token, logprob = reported.chosen
    assert token == result.token_ids[0]
    assert logprob == pytest.approx(float(expected[token]), abs=1e-6)
    values, ids = expected.topk(4)
    assert [entry.token_id for entry in reported.top] == ids.tolist()
    assert [entry.logprob for entry in reported.top] == pytest.approx(values.tolist(), abs=1e-6)


def test_top_logprobs_break_ties_by_id_and_leave_out_the_impossible() -> None:
    logits = torch.tensor([1.0, -INF, 2.0, 1.0, 2.0])
    ids = [entry.token_id for entry in token_logprobs(logits, 0, 3).top]
    assert ids == [2, 4, 0]
    assert len(token_logprobs(logits, 0, 5).top) == 4
    assert token_logprobs(logits, 0, 0).top == ()
    with pytest.raises(OptionError, match="logprobs=6 is more than the 5 tokens"):
        token_logprobs(logits, 0, 6)
