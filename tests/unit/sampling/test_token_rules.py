"""Every rule over tokens against the class of transformers it stands for, bit for bit in fp32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig
from transformers.generation import logits_process as hf

from kept.errors import OptionError
from kept.sampling import SamplingParams, TokenHistory, process_scores
from kept.sampling import token_rules as r
from kept.sampling.transformers_fields import DONE, HARMLESS, REFUSED

V = 61
EOS = [3, 9]


def row(seed: int = 0, holes: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(V, generator=generator) * 4
    if holes:
        found[torch.rand(V, generator=generator) < 0.6] = float("-inf")
    return found


def theirs(processor: Any, scores: torch.Tensor, tokens: list[int]) -> torch.Tensor:
    found: torch.Tensor = processor(torch.tensor([tokens], dtype=torch.int64), scores[None].clone())
    return found[0]


def same(ours: torch.Tensor, expected: torch.Tensor) -> None:
    np.testing.assert_array_equal(ours.numpy(), expected.numpy(), strict=True)


def ours(
    scores: torch.Tensor, tokens: list[int], prompt: int, config: dict[str, object], **options: Any
) -> torch.Tensor:
    params = SamplingParams(**options).resolve({"eos_token_id": EOS, **config}, vocab_size=V)
    history = TokenHistory(tokens[:prompt])
    for token in tokens[prompt:]:
        history.append(token)
    before = scores.clone()
    found = process_scores(scores, params, history)
    assert torch.equal(scores, before)
    return found


@settings(max_examples=40)
@given(
    tokens=st.lists(st.integers(0, V + 2), min_size=1, max_size=12),
    presence=st.sampled_from([0.0, 0.5, -2.0, 1e300]),  # more than fp32 holds
    frequency=st.sampled_from([0.0, 0.25, -1.5, 1e308]),
)
def test_counts_of_tokens_without_the_prompt(
    tokens: list[int], presence: float, frequency: float
) -> None:
    """By the formula of OpenAI's reference, logit - count * frequency - (count > 0) * presence."""
    scores, prompt = row(), [1, 2, 2]
    options = {"presence_penalty": presence, "frequency_penalty": frequency}
    expected = scores.clone()
    for token in set(tokens) & set(range(V)):
        expected[token] -= tokens.count(token) * frequency + presence
    same(ours(scores, prompt + tokens, len(prompt), {}, **options), expected)


@settings(max_examples=60)
@given(
    tokens=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    words=st.lists(
        st.lists(st.integers(0, 4), min_size=1, max_size=3), min_size=1, max_size=4, unique_by=tuple
    ),
)
def test_sequences_of_tokens(tokens: list[int], words: list[list[int]]) -> None:
    scores = row()
    biases: list[Any] = [[word, 0.7 * i - 1.0] for i, word in enumerate(words)]
    found = ours(scores, tokens, 1, {"sequence_bias": biases})
    same(found, theirs(hf.SequenceBiasLogitsProcessor(biases), scores, tokens))
    expected = scores
    if any(word not in [[end] for end in EOS] for word in words):
        expected = theirs(hf.NoBadWordsLogitsProcessor(words, EOS), scores, tokens)
    same(ours(scores, tokens, 1, {"bad_words_ids": words}), expected)


@settings(max_examples=60)
@given(
    asked=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    text=st.lists(st.integers(0, 3), min_size=1, max_size=6),
    size=st.integers(1, 4),
)
def test_what_was_asked(asked: list[int], text: list[int], size: int) -> None:
    scores, source = row(), torch.tensor([asked])
    params = SamplingParams(encoder_no_repeat_ngram_size=size).resolve()
    found = process_scores(scores, params, TokenHistory(text, asked))
    same(found, theirs(hf.EncoderNoRepeatNGramLogitsProcessor(size, source), scores, text))
    # transformers takes a decoder's own prompt for what was asked.
    found = process_scores(scores, params, TokenHistory(asked))
    same(found, theirs(hf.EncoderNoRepeatNGramLogitsProcessor(size, source), scores, asked))
    params = SamplingParams(encoder_repetition_penalty=0.7).resolve()
    found = process_scores(scores, params, TokenHistory(text, asked))
    same(found, theirs(hf.EncoderRepetitionPenaltyLogitsProcessor(0.7, source), scores, text))


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("num_new", range(7))
@pytest.mark.parametrize("prompt", [1, 4])
def test_rules_of_places(prompt: int, num_new: int, holes: bool) -> None:
    scores, tokens = row(prompt, holes), list(range(20, 20 + prompt + num_new))
    for config, processor in (
        ({"forced_bos_token_id": 7}, hf.ForcedBOSTokenLogitsProcessor(7)),
        ({"forced_eos_token_id": [3, 5]}, hf.ForcedEOSTokenLogitsProcessor(prompt + 6, [3, 5])),
        ({"suppress_tokens": [-1, 4, 60, 99]}, hf.SuppressTokensLogitsProcessor([-1, 4, 60, 99])),
        (
            {"begin_suppress_tokens": [4, 8]},
            hf.SuppressTokensAtBeginLogitsProcessor([4, 8], prompt),
        ),
        (
            {"exponential_decay_length_penalty": [2, 1.3]},
            hf.ExponentialDecayLengthPenalty((2, 1.3), EOS, prompt),
        ),
    ):
        found = ours(scores, tokens, prompt, config, max_new_tokens=6)
        same(found, theirs(processor, scores, tokens))


def test_the_beginning_behind_a_forced_first_token() -> None:
    config: dict[str, object] = {"forced_bos_token_id": 7, "begin_suppress_tokens": [4]}
    assert ours(row(), [1], 1, config)[4] == float("-inf")
    assert ours(row(), [1, 7], 1, config)[4] == float("-inf")
    assert ours(row(), [1, 7, 2], 1, config)[4] == row()[4]
    assert ours(row(), [1, 2, 7], 2, config)[4] == row()[4]


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("keep", [1, 3])
def test_filters_of_a_draw(keep: int, holes: bool) -> None:
    for seed in range(6):
        scores = row(seed, holes)
        for value in (0.05, 0.3, 0.7, 0.999):
            typical = hf.TypicalLogitsWarper(value, min_tokens_to_keep=keep)
            same(r.typical(scores, value, keep), theirs(typical, scores, [1]))
            epsilon = hf.EpsilonLogitsWarper(value, min_tokens_to_keep=keep)
            same(r.epsilon_cutoff(scores, value, keep), theirs(epsilon, scores, [1]))
            eta = hf.EtaLogitsWarper(value, min_tokens_to_keep=keep)
            same(r.eta_cutoff(scores, value, keep), theirs(eta, scores, [1]))
            same(r.top_h(scores, value), theirs(hf.TopHLogitsWarper(value), scores, [1]))


def test_all_rules_come_in_transformers_order() -> None:
    config: dict[str, Any] = {
        "sequence_bias": [[[5], 4.0], [[1, 6], 3.0]],
        "encoder_repetition_penalty": 1.4,
        "repetition_penalty": 1.3,
        "bad_words_ids": [[8], [1, 11]],
        "exponential_decay_length_penalty": [0, 1.2],
        "suppress_tokens": [13],
        "temperature": 0.8,
        "top_h": 0.9,
        "top_k": 40,
        "typical_p": 0.9,
        "epsilon_cutoff": 0.001,
        "eta_cutoff": 0.002,
        "renormalize_logits": True,
    }
    tokens = [5, 6, 2, 1]
    whole = hf.LogitsProcessorList(
        [
            hf.SequenceBiasLogitsProcessor(config["sequence_bias"]),
            hf.EncoderRepetitionPenaltyLogitsProcessor(1.4, torch.tensor([tokens[:3]])),
            hf.RepetitionPenaltyLogitsProcessor(1.3),
            hf.NoBadWordsLogitsProcessor(config["bad_words_ids"], EOS),
            hf.ExponentialDecayLengthPenalty((0, 1.2), EOS, 3),
            hf.SuppressTokensLogitsProcessor([13]),
            hf.TemperatureLogitsWarper(0.8),
            hf.TopHLogitsWarper(0.9),
            hf.TopKLogitsWarper(40, min_tokens_to_keep=3),
            hf.TypicalLogitsWarper(0.9, min_tokens_to_keep=3),
            hf.EpsilonLogitsWarper(0.001, min_tokens_to_keep=3),
            hf.EtaLogitsWarper(0.002, min_tokens_to_keep=3),
            hf.LogitNormalization(),
        ]
    )
    for seed in range(8):
        found = ours(row(seed), tokens, 3, config, do_sample=True, num_beams=2)
        same(found, theirs(whole, row(seed), tokens))


def test_every_field_of_transformers_is_in_the_table_once() -> None:
    known = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    tables = (DONE, set(REFUSED), set(HARMLESS))
    assert known - set.union(*map(set, tables)) == set()
    assert DONE - known == set()
    assert set(HARMLESS) - known == set()
    assert set(REFUSED) - known == {"forced_decoder_ids"}
    assert sum(map(len, tables)) == len(set.union(*map(set, tables)))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"bad_words_ids": [[]]}, "bad_words_ids holds an empty list"),
        ({"bad_words_ids": [3]}, "bad_words_ids=3 is of type int; pass a list of token ids"),
        ({"sequence_bias": [[[1], 2.0, 3]]}, "sequence_bias holds"),
        ({"sequence_bias": {(1,): "a"}}, "sequence_bias='a'"),
        ({"exponential_decay_length_penalty": [1]}, "has 1 items; pass a pair"),
        ({"forced_bos_token_id": V}, f"forced_bos_token_id names the token {V}"),
        ({"suppress_tokens": [1, V]}, f"suppress_tokens names the token {V}"),
        ({"begin_suppress_tokens": V}, f"begin_suppress_tokens names the token {V}"),
        ({"sequence_bias": {(V,): 0.0}}, f"sequence_bias names the token {V}"),
        ({"bad_words_ids": [[1, V]]}, f"bad_words_ids names the token {V}"),
        ({"typical_p": 0.5, "do_sample": False}, "typical_p=0.5 has no effect"),
        ({"typical_p": 0.0}, "typical_p=0.0 is out of range"),
    ],
)
def test_rules_that_cannot_be_kept(options: dict[str, Any], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        SamplingParams(**options).resolve(vocab_size=V)


def test_a_given_rule_wins_over_the_checkpoints_and_a_filter_draws() -> None:
    config = {"suppress_tokens": [4], "typical_p": 0.5}
    assert SamplingParams(suppress_tokens=[]).resolve(config).rules.suppress_tokens == ()
    assert SamplingParams().resolve(config).rules.typical_p == 1.0
    params = SamplingParams(typical_p=0.9).resolve(config)
    assert params.do_sample
    assert params.rules.typical_p == 0.9
    hash(SamplingParams(sequence_bias={(1, 2): 0.5}, bad_words_ids=[[1]]))


def test_ends_grow_no_likelier_than_a_number_can_say() -> None:
    scores = torch.tensor([1.0, -2.0, 0.5])
    for factor, count in ((1e10, 60), (3e38, 2), (2.0, 10_000)):
        found = r.decayed(scores, frozenset({1}), factor, count)
        assert found.isfinite().all()
        assert int(found.argmax()) == 1
