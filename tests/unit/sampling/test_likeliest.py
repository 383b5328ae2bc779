"""A row's largest few logits: they choose what the whole row would, or say that they cannot."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from thinning import examples

from kept.errors import SamplingError
from kept.machine import NATIVE_AVAILABLE
from kept.sampling import (
    Key,
    Likeliest,
    ResolvedParams,
    SamplingParams,
    TokenHistory,
    draw,
    kernels,
    num_likeliest,
    process_scores,
    sample_rows,
    token_logprobs,
)
from kept.sampling.likeliest import can_be_chosen_from
from kept.sampling.together import Rows, choose_together

V = 400  # of two chunks, the last one short
INF = float("inf")
EOS = 3
PROMPT, TEXT = [1, 7, 1, 9], [EOS, 9, 9]

some_options = st.fixed_dictionaries(
    {},
    optional={
        "do_sample": st.booleans(),
        "temperature": st.sampled_from([0.01, 0.7, 1.0, 1.3, 1e4, 1e-300]),
        "top_k": st.sampled_from([0, 0, 1, 2, 50, 255, 256, 500]),
        "top_p": st.sampled_from([1e-9, 0.01, 0.5, 0.9, 0.999]),
        "min_p": st.sampled_from([1e-6, 0.05, 1.0]),
        "repetition_penalty": st.sampled_from([0.8, 1.2, 30.0, 1e38]),
        "no_repeat_ngram_size": st.sampled_from([1, 2]),
        "min_new_tokens": st.sampled_from([2, 5]),
        "suppress_tokens": st.just(list(range(0, 400, 3))),
        "begin_suppress_tokens": st.just([1, 2, 5]),
        "bad_words_ids": st.just([[9], [9, 8], [EOS]]),
        "encoder_no_repeat_ngram_size": st.sampled_from([1, 2]),
        "sequence_bias": st.just([[[11], 6.0], [[9, 12], -3.0]]),
        "presence_penalty": st.sampled_from([-0.5, 1.5]),
        "frequency_penalty": st.sampled_from([-2.0, 0.3]),
        "typical_p": st.just(0.8),
        "eta_cutoff": st.sampled_from([1e-3, 0.2]),
        "epsilon_cutoff": st.sampled_from([1e-3, 0.2]),
        "top_h": st.just(0.5),
        "renormalize_logits": st.just(True),
        "logprobs": st.sampled_from([0, 1, 5, 20, 500]),
    },
)


def params_of(options: dict[str, Any]) -> ResolvedParams:
    options = {"do_sample": True, **options}
    if not options["do_sample"]:
        drawn = ("temperature", "top_", "min_p", "typical_p", "eta_cutoff", "epsilon_cutoff")
        options = {k: v for k, v in options.items() if not k.startswith(drawn)}
    return SamplingParams(**options, eos_token_id=EOS).resolve()


def history_of(length: int) -> TokenHistory:
    history = TokenHistory(PROMPT)
    for token in TEXT[:length]:
        history.append(token)
    return history


def keys_of(params: list[ResolvedParams], seed: int) -> list[Key]:
    return [Key(seed + row, 7) for row in range(len(params))]


def largest(logits: torch.Tensor, count: int) -> Likeliest:
    values, tokens = logits.sort(dim=1, descending=True, stable=True)
    return Likeliest(values[:, :count].numpy(), tokens[:, :count].numpy())


def logits_of(
    rows: int, seed: int, spread: float, grain: float | None = None, hidden: int = 0
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, V, generator=generator) * spread
    if grain is not None:
        logits = (logits / grain).round() * grain
    logits[:, torch.randperm(V, generator=generator)[:hidden]] = -INF
    return logits


def alone(logits: torch.Tensor, params: ResolvedParams, history: TokenHistory, key: Key) -> Any:
    """What a row comes to when it is read by itself: its token, or None for an error."""
    if not math.isfinite(float(logits.max())):
        return None
    scores = process_scores(logits, params, history)
    if not math.isfinite(float(scores.max())):
        return None
    return draw(scores, key) if params.do_sample else int(scores.argmax())


@given(
    options=st.lists(some_options, min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
    spread=st.sampled_from([0.0, 1e-6, 0.3, 3.0, 60.0]),
    grain=st.sampled_from([None, 0.5, 4.0]),  # so coarse, many logits tie
    hidden=st.sampled_from([0, 0, 1, 300, 397, 399, 400]),  # so many tokens are impossible
    extra=st.sampled_from([None, None, 1, 2, 51, 256, 400]),
)
def test_a_step_chooses_what_each_row_would_by_itself(
    options: list[dict[str, Any]],
    seed: int,
    spread: float,
    grain: float | None,
    hidden: int,
    extra: int | None,
) -> None:
    params = [params_of(each) for each in options]
    logits = logits_of(len(params), seed, spread, grain, hidden)
    histories = [history_of((seed + row) % 4) for row in range(len(params))]
    keys = [Key(seed + row, len(history)) for row, history in enumerate(histories)]
    count = num_likeliest(params, len(params), V) if extra is None else extra
    likeliest = largest(logits, count) if count else None
    found = sample_rows(logits, params, histories, keys, None, likeliest)
    rows = zip(logits, params, histories, keys, strict=True)
    for row, each in enumerate(rows):
        expected = alone(*each)
        wanted = params[row].logprobs
        if expected is None or (wanted is not None and wanted > V):
            assert found.errors[row] is not None
            assert (found.token_ids[row], found.logprobs[row]) == (-1, None)
        else:
            assert (found.token_ids[row], found.errors[row]) == (expected, None)
            told = None if wanted is None else token_logprobs(logits[row], expected, wanted)
            assert found.logprobs[row] == told


def decided(options: dict[str, Any], logits: torch.Tensor, count: int) -> bool:
    params, history, key = params_of(options), history_of(0), Key(5, 4)
    rows = Rows(logits, [params], [history], [key], logits.amax(1).tolist())
    found = choose_together(rows, [0], largest(logits, count))
    assert found in ({}, {0: alone(logits[0], params, history, key)})
    return bool(found)


@given(
    temperature=st.sampled_from([0.7, 1.0, 1.3]),
    top_k=st.sampled_from([1, 2, 50, 100]),
    top_p=st.sampled_from([0.3, 0.9, 1.0]),
    rules=st.sampled_from([
        {}, {"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 1}, {"min_new_tokens": 1},
        {"suppress_tokens": [8, 12]}, {"bad_words_ids": [[7], [9, 8]]}, {"do_sample": False,
        "repetition_penalty": 1.1}, {"encoder_no_repeat_ngram_size": 1},
        {"begin_suppress_tokens": [1]},
    ]),
    seed=st.integers(0, 2**32),
)  # fmt: skip
def test_they_decide_wherever_nothing_ties(
    temperature: float, top_k: int, top_p: float, rules: dict[str, Any], seed: int
) -> None:
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, **rules}
    logits = torch.randperm(V, generator=torch.Generator().manual_seed(seed)).float()[None] / 9
    assert decided(options, logits, num_likeliest([params_of(options)], 2, V))


@pytest.mark.skipif(not NATIVE_AVAILABLE, reason="built without the native module")
@settings(max_examples=examples(80, 300))
@given(
    options=st.lists(some_options, min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
    spread=st.sampled_from([0.0, 1e-6, 0.3, 3.0, 60.0]),
    grain=st.sampled_from([None, 0.5, 4.0]),
    count=st.sampled_from([1, 2, 51, 256, 400]),
)
def test_the_kernel_decides_what_numpy_does(
    options: list[dict[str, Any]], seed: int, spread: float, grain: float | None, count: int
) -> None:
    params = [params_of(each) for each in options]
    logits = logits_of(len(params), seed, spread, grain, 0)
    rows = Rows(logits, params, [history_of(3)] * len(params), keys_of(params, seed), [])
    wanted = [row for row, each in enumerate(params) if can_be_chosen_from(each)]
    found = choose_together(rows, wanted, largest(logits, count))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kernels, "choose_from_few", None)
        assert choose_together(rows, wanted, largest(logits, count)) == found


@pytest.mark.skipif(not NATIVE_AVAILABLE, reason="built without the native module")
@given(
    seed=st.integers(0, 2**32),
    grain=st.sampled_from([None, 0.5, 4.0]),
    hidden=st.sampled_from([0, 399, 400]),
    nans=st.sampled_from([0, 0, 1, 90]),
    count=st.sampled_from([1, 2, 70, 399, 400]),
)
def test_the_largest_of_a_row(
    seed: int, grain: float | None, hidden: int, nans: int, count: int
) -> None:
    from kept import _native

    rows = logits_of(2, seed, 3.0, grain, hidden)
    rows[0, torch.randperm(V)[:nans]] = float("nan")
    values, tokens = np.empty((2, count), np.float32), np.empty((2, count), np.int64)
    _native.largest([row.numpy() for row in rows], values, tokens)
    expected = largest(rows, count)  # NaN is the largest to torch too
    np.testing.assert_array_equal(tokens, expected.tokens)
    np.testing.assert_array_equal(values, expected.logits)


@pytest.mark.parametrize(
    ("options", "decides"),
    [
        ({"top_k": 0, "top_p": 0.9}, True), ({"top_k": 0, "min_p": 0.1}, True),
        ({"top_k": 0, "top_p": 0.9, "repetition_penalty": 1.2}, True),
        ({"top_k": 0, "temperature": 0.3}, True),
        ({"top_k": 0, "top_p": 0.9, "temperature": 1e3}, False),
        ({"top_k": 0, "min_p": 0.1, "temperature": 1e3}, False),
        ({"repetition_penalty": 0.9}, NATIVE_AVAILABLE), ({"temperature": 1e-300}, False),
        ({"sequence_bias": [[[1], 2.0]]}, NATIVE_AVAILABLE), ({"typical_p": 0.9}, True),
        ({"eta_cutoff": 0.01, "repetition_penalty": 1.2}, True), ({"top_h": 0.5}, False),
        ({"top_k": 0, "typical_p": 0.9}, False), ({"top_k": 60, "typical_p": 0.9}, False),
        ({"top_k": 256}, NATIVE_AVAILABLE),
    ],
)  # fmt: skip
def test_what_they_can_decide(options: dict[str, Any], decides: bool) -> None:
    logits = torch.linspace(0, 40, V)[None] ** 1.5
    assert decided(options, logits, 60) is decides


def test_a_tie_at_their_edge_is_left_to_the_whole_row() -> None:
    logits = torch.arange(4.0).repeat_interleave(V // 4)[None]
    assert not decided({"top_k": 3}, logits, 4)
    assert not decided({"do_sample": False, "no_repeat_ngram_size": 2}, logits, 4)


def test_a_row_without_a_token_costs_the_others_nothing() -> None:
    logits = logits_of(4, 0, 3.0)
    logits[0], logits[2, 5] = -INF, float("nan")
    params = [params_of(o) for o in ({}, {"do_sample": False}, {"top_k": 5}, {"logprobs": 500})]
    histories, keys = [history_of(0)] * 4, [Key(1, 4)] * 4
    found = sample_rows(logits, params, histories, keys)
    assert found.token_ids == (-1, int(logits[1].argmax()), -1, -1)
    kinds = [None if error is None else str(error).split(",")[0] for error in found.errors]
    assert kinds == [
        "every logit is -inf", None, "the logits hold nan",
        "logprobs=500 is more than the 400 tokens of the vocabulary; pass 400 or less",
    ]  # fmt: skip
    assert isinstance(found.errors[0], SamplingError)


def test_how_many_are_asked_for() -> None:
    def count(**options: Any) -> int:
        return num_likeliest([params_of(options)], 2, V)

    assert count() == 51
    assert count(logprobs=5) == 51
    assert count(logprobs=70) == 71
    assert count(top_k=255) == 256
    assert count(top_k=256) == 0
    assert count(top_k=300, logprobs=20) == 21
    assert count(do_sample=False) == 0
    assert count(do_sample=False, logprobs=0) == 0
    assert count(do_sample=False, logprobs=3) == 4
    assert count(repetition_penalty=1.1) == 132
    assert count(repetition_penalty=1.1, top_k=200) == 256
    assert count(repetition_penalty=0.9) == 0
    assert count(do_sample=False, repetition_penalty=1.1) == 0
    assert count(do_sample=False, no_repeat_ngram_size=2) == 34
    assert count(top_k=0, top_p=0.9) == count(top_k=0, min_p=0.1) == 128
    assert count(top_k=0) == 0
    assert count(num_beams=3, logprobs=3) == 0
