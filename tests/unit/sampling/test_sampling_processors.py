"""Every processor against the class of transformers it stands for, bit for bit in fp32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as hf

from kept.sampling import SamplingParams, TokenHistory, process_scores
from kept.sampling import processors as p

V = 97


def _row(kind: str, seed: int = 0, size: int = V) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    row = torch.randn(size, generator=generator) * 4
    if kind == "ties":
        row = row.round()
    elif kind == "extreme":
        row = torch.where(row > 0, 80.0, -80.0) + torch.randn(size, generator=generator)
    elif kind == "holes":
        row[torch.rand(size, generator=generator) < 0.6] = float("-inf")
    return row


KINDS = ("plain", "ties", "extreme", "holes")
rows = pytest.mark.parametrize("kind", KINDS)


def _theirs(
    processor: hf.LogitsProcessor | hf.LogitsProcessorList,
    row: torch.Tensor,
    tokens: list[int] | None = None,
) -> torch.Tensor:
    ids: Any = torch.tensor([tokens or []], dtype=torch.int64)
    result: torch.Tensor = processor(ids, row[None].clone())[0]
    return result


def _same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy(), strict=True)


@rows
@pytest.mark.parametrize("penalty", [0.5, 1.1, 1.3, 7.0])
def test_repetition_penalty(kind: str, penalty: float) -> None:
    row, tokens = _row(kind), [3, 5, 3, 3, 90, 0, 96, 5, V, V + 7]
    before = row.clone()
    ours = p.repetition_penalty(row, np.array(tokens), penalty)
    _same(ours, _theirs(hf.RepetitionPenaltyLogitsProcessor(penalty), row, tokens))
    assert torch.equal(row, before)


@settings(max_examples=150)
@given(tokens=st.lists(st.integers(0, 4), max_size=24), size=st.integers(1, 5))
def test_no_repeat_ngram_size(tokens: list[int], size: int) -> None:
    row = _row("plain")
    ours = p.no_repeat_ngrams(row, np.array(tokens, dtype=np.int64), size)
    _same(ours, _theirs(hf.NoRepeatNGramLogitsProcessor(size), row, tokens))


@pytest.mark.parametrize("num_generated", range(6))
def test_min_new_tokens(num_generated: int) -> None:
    params = SamplingParams(min_new_tokens=4, eos_token_id=[5, 96, 1000]).resolve()
    history = TokenHistory([1, 2, 3])
    for token in range(num_generated):
        history.append(token)
    row = _row("plain")
    theirs = hf.MinNewTokensLengthLogitsProcessor(3, 4, [5, 96, 1000])
    _same(process_scores(row, params, history), _theirs(theirs, row, history.tokens.tolist()))


@pytest.mark.parametrize("length", [3, 8, 9])
def test_min_length_of_the_checkpoint(length: int) -> None:
    params = SamplingParams().resolve({"min_length": 8, "eos_token_id": 5})
    history = TokenHistory(list(range(length)))
    row = _row("plain")
    theirs = _theirs(hf.MinLengthLogitsProcessor(8, 5), row, history.tokens.tolist())
    _same(process_scores(row, params, history), theirs)


@rows
@pytest.mark.parametrize("k", [1, 2, 5, 50, V - 1, V, V + 1, 10**6])
def test_top_k(kind: str, k: int) -> None:
    row = _row(kind)
    _same(p.top_k(row, k), _theirs(hf.TopKLogitsWarper(k), row))


@pytest.mark.parametrize("kind", ["plain", "extreme", "holes"])
@pytest.mark.parametrize("mass", [1e-12, 1e-6, 0.1, 0.5, 0.9, 0.95, 0.999, 1.0])
@pytest.mark.parametrize("keep", [1, 3])
def test_top_p(kind: str, mass: float, keep: int) -> None:
    for seed in range(8):
        row = _row(kind, seed)
        _same(
            p.top_p(row, mass, keep),
            _theirs(hf.TopPLogitsWarper(mass, min_tokens_to_keep=keep), row),
        )


@pytest.mark.parametrize("mass", [1e-6, 0.1, 0.5, 0.9, 0.999])
def test_top_p_keeps_as_many_of_a_tie_and_the_lowest_ids(mass: float) -> None:
    for seed in range(8):
        row = _row("ties", seed)
        ours, theirs = p.top_p(row, mass), _theirs(hf.TopPLogitsWarper(mass), row)
        _same(ours.sort().values, theirs.sort().values)
        for value in set(row[ours.isfinite()].tolist()):
            tied = torch.nonzero(row == value).squeeze(1)
            kept = ours[tied].isfinite()
            assert torch.equal(kept, kept.sort(descending=True).values)


def test_a_tiny_top_p_is_greedy_even_among_equals() -> None:
    row = torch.tensor([1.0, 3.0, 3.0, -2.0, 3.0])
    assert torch.nonzero(p.top_p(row, 1e-9).isfinite()).tolist() == [[1]]


def test_top_p_at_an_exact_boundary() -> None:
    row = torch.zeros(4)
    for mass, kept in ((0.25, 1), (0.5, 2), (0.75, 3), (0.51, 3)):
        assert int(p.top_p(row, mass).isfinite().sum()) == kept
        assert int(_theirs(hf.TopPLogitsWarper(mass), row).isfinite().sum()) == kept


@rows
@pytest.mark.parametrize("fraction", [0.0, 1e-6, 0.05, 0.5, 1.0])
def test_min_p(kind: str, fraction: float) -> None:
    row = _row(kind)
    _same(p.min_p(row, fraction), _theirs(hf.MinPLogitsWarper(fraction), row))


@pytest.mark.parametrize("keep", [2, 3, V + 5])
def test_min_p_keeps_as_many_as_beams_need(keep: int) -> None:
    row = _row("plain")
    theirs = hf.MinPLogitsWarper(0.9, min_tokens_to_keep=keep)
    _same(p.min_p(row, 0.9, keep), _theirs(theirs, row))


CHAINS: list[dict[str, Any]] = [
    {"temperature": 0.7},
    {"temperature": 1.9, "top_k": 0},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.8},
    {"top_k": 0, "top_p": 0.9, "min_p": 0.02},
    {"temperature": 3.0, "top_k": 40, "top_p": 0.95, "min_p": 0.1, "repetition_penalty": 1.2},
    {"temperature": 0.3, "no_repeat_ngram_size": 2, "min_new_tokens": 9, "repetition_penalty": 0.8},
    {"num_beams": 3, "temperature": 0.2, "top_k": 1, "top_p": 0.01, "min_p": 1.0},
]


@pytest.mark.parametrize("options", CHAINS)
@pytest.mark.parametrize("kind", ["plain", "extreme"])
@pytest.mark.parametrize("is_log_softmax", [False, True])
def test_the_whole_chain(options: dict[str, Any], kind: str, is_log_softmax: bool) -> None:
    params = SamplingParams(eos_token_id=[7, 11], do_sample=True, **options).resolve()
    tokens = [4, 9, 4, 8, 4, 9, 7, 4]
    history = TokenHistory(tokens[:3])
    for token in tokens[3:]:
        history.append(token)
    for seed in range(6):
        row = _row(kind, seed)
        row = row.log_softmax(-1) if is_log_softmax else row
        theirs = _theirs(_transformers_chain(options), row, tokens)
        _same(process_scores(row, params, history), theirs)


def _transformers_chain(options: dict[str, Any]) -> hf.LogitsProcessorList:
    """Build the list as `GenerationMixin._get_logits_processor` does, for end tokens 7 and 11."""
    keep = 3 if options.get("num_beams", 1) > 1 else 1
    chain = hf.LogitsProcessorList()
    if "repetition_penalty" in options:
        chain.append(hf.RepetitionPenaltyLogitsProcessor(options["repetition_penalty"]))
    if "no_repeat_ngram_size" in options:
        chain.append(hf.NoRepeatNGramLogitsProcessor(options["no_repeat_ngram_size"]))
    if "min_new_tokens" in options:
        chain.append(hf.MinNewTokensLengthLogitsProcessor(3, options["min_new_tokens"], [7, 11]))
    if "temperature" in options:
        chain.append(hf.TemperatureLogitsWarper(options["temperature"]))
    if k := options.get("top_k", 50):
        chain.append(hf.TopKLogitsWarper(k, min_tokens_to_keep=keep))
    if "top_p" in options:
        chain.append(hf.TopPLogitsWarper(options["top_p"], min_tokens_to_keep=keep))
    if "min_p" in options:
        chain.append(hf.MinPLogitsWarper(options["min_p"], min_tokens_to_keep=keep))
    return chain


def test_greedy_and_idle_processors_return_the_row_itself() -> None:
    row = _row("plain")
    assert process_scores(row, SamplingParams().resolve(), TokenHistory([1])) is row
    pure = SamplingParams(do_sample=True, top_k=0).resolve()
    assert process_scores(row, pure, TokenHistory([1])) is row


def test_a_row_ruled_out_entirely_stays_so() -> None:
    row = torch.full((V,), float("-inf"))
    params = SamplingParams(temperature=0.5, top_k=5, top_p=0.5, min_p=0.5).resolve()
    assert torch.equal(process_scores(row, params, TokenHistory([1])), row)


def test_highest_orders_equals_by_index() -> None:
    values = torch.tensor([1.0, 5.0, 2.0, 5.0, 2.0, 2.0])
    assert p.highest(values, 4).tolist() == [1, 3, 2, 4]
    assert p.highest(values, 0).tolist() == []
    assert p.highest(values, 99).tolist() == [1, 3, 2, 4, 5, 0]


def test_history_marks_what_it_has_seen() -> None:
    history = TokenHistory([5, 6, 9])
    assert np.flatnonzero(history.seen(8)).tolist() == [5, 6]
    for token in (5, 7, 8):
        history.append(token)
    fork = history.fork()
    fork.append(1)
    assert np.flatnonzero(history.seen(8)).tolist() == [5, 6, 7]
    assert np.flatnonzero(fork.seen(10)).tolist() == [1, 5, 6, 7, 8, 9]
    assert np.flatnonzero(history.seen(10)).tolist() == [5, 6, 7, 8, 9]


def test_history_grows_and_forks() -> None:
    history = TokenHistory(torch.tensor([5, 6]))
    for token in range(200):
        history.append(token)
    fork = history.fork()
    history.append(9)
    assert history.tokens.tolist() == [5, 6, *range(200), 9]
    assert (history.num_generated, fork.num_generated, len(fork)) == (201, 200, 202)
    assert fork.tokens.tolist() == [5, 6, *range(200)]
    with pytest.raises(ValueError, match="read-only"):
        history.tokens[0] = 1
