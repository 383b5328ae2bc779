"""Options: ranges at the door, precedence over the checkpoint, contradictions, refusals."""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import Any

import numpy as np
import pytest

from kept.errors import OptionError
from kept.options import CACHE_FIELDS, Field
from kept.sampling import SamplingParams


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("max_new_tokens", v) for v in (0, -1, 1.0, True, "5")],
        *[("min_new_tokens", v) for v in (-1, 2.5)],
        *[("do_sample", v) for v in (1, "yes")],
        *[("temperature", v) for v in (-0.1, math.inf, math.nan, True, "hot", 10**400)],
        *[("top_k", v) for v in (-1, 1.5, True)],
        *[("top_p", v) for v in (0, 0.0, 1.01, -0.5, math.nan)],
        *[("min_p", v) for v in (-0.01, 1.01, math.nan)],
        *[("repetition_penalty", v) for v in (0, -1.0, math.inf)],
        *[("no_repeat_ngram_size", v) for v in (-1, 1.0)],
        *[("num_beams", v) for v in (0, True, 2**63)],
        *[("length_penalty", v) for v in (math.inf, math.nan, "1", 33, -1e30)],
        *[("early_stopping", v) for v in ("always", "", 1)],
        *[("num_return_sequences", v) for v in (0, 1.0, 10**30)],
        *[("stop_strings", v) for v in ("", ["a", ""], 3, [3], b"x")],
        *[("eos_token_id", v) for v in (-1, [], [1, -2], True, "2", [1.0], np.array(2))],
        *[("ignore_eos", v) for v in (1, "no")],
        *[("seed", v) for v in (-1, 2**64, 0.5)],
        *[("logprobs", v) for v in (-1, True)],
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=rf"^{name}.*; (pass|remove)"):
        SamplingParams(**{name: value})


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"do_sample": False, "temperature": 0.7}, "temperature=0.7"),
        ({"do_sample": False, "top_p": 0.9}, "top_p=0.9"),
        ({"do_sample": False, "top_k": 5}, "top_k=5"),
        ({"do_sample": False, "min_p": 0.1}, "min_p=0.1"),
        ({"temperature": 0, "top_p": 0.9}, "top_p=0.9.*temperature=0"),
        ({"temperature": 0, "do_sample": True}, "temperature=0.0"),
        ({"num_return_sequences": 2}, "num_return_sequences=2"),
        ({"num_return_sequences": 3, "num_beams": 2}, "num_return_sequences=3.*num_beams=2"),
        ({"length_penalty": 1.0}, "length_penalty=1.0"),
        ({"early_stopping": False}, "early_stopping=False"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "min_new_tokens=9.*max_new_tokens=8"),
        ({"min_new_tokens": 257}, r"max_new_tokens=256 \(the default\)"),
        ({"ignore_eos": True, "eos_token_id": 3}, "ignore_eos=True"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    options: dict[str, Any], named: str
) -> None:
    params = SamplingParams(**options)
    with pytest.raises(OptionError, match=named):
        params.resolve()


@pytest.mark.parametrize(
    ("options", "config", "named"),
    [
        ({"do_sample": True}, {"temperature": 0.0}, r"temperature=0.0 \(from generation_config"),
        ({"top_p": 0.9}, {"temperature": 0}, "temperature=0.0"),
        ({"num_beams": 2}, {"num_return_sequences": 4}, "num_return_sequences=4 .from"),
        ({"max_new_tokens": 5}, {"min_new_tokens": 6}, "min_new_tokens=6 .from"),
        ({"do_sample": True}, {"top_p": 5}, "generation_config.json's top_p=5"),
        ({}, {"repetition_penalty": 0}, "generation_config.json's repetition_penalty=0"),
        ({}, {"eos_token_id": -1}, "generation_config.json's eos_token_id=-1"),
    ],
)
def test_what_the_checkpoint_says_is_checked_and_named(
    options: dict[str, Any], config: dict[str, object], named: str
) -> None:
    with pytest.raises(OptionError, match=named):
        SamplingParams(**options).resolve(config)


@pytest.mark.parametrize(
    ("options", "config", "expected"),
    [
        ({}, {}, False),
        ({"temperature": 0}, {}, False),
        ({"temperature": 0}, {"do_sample": True}, False),
        ({"temperature": 0, "do_sample": False, "top_p": 1.0, "top_k": 0, "min_p": 0}, {}, False),
        ({"temperature": 0.5}, {}, True),
        ({"temperature": 0.5}, {"do_sample": False}, True),
        ({"top_k": 0}, {}, True),
        ({"top_p": 0.9}, {}, True),
        ({"min_p": 0.1}, {}, True),
        ({"do_sample": True}, {}, True),
        ({}, {"do_sample": True}, True),
        ({}, {"do_sample": True, "temperature": 0}, False),
        ({"do_sample": False}, {"do_sample": True, "temperature": 0.6, "top_p": 0.9}, False),
        ({}, {"do_sample": False, "temperature": 0.6, "top_k": 50, "top_p": 9.0}, False),
    ],
)
def test_when_tokens_are_drawn(
    options: dict[str, Any], config: dict[str, object], expected: bool
) -> None:
    params = SamplingParams(**options).resolve(config)
    assert params.do_sample is expected
    if not expected:
        assert (params.temperature, params.top_k, params.top_p, params.min_p) == (1, 0, 1, 0)
        assert params.is_plain_greedy


def test_defaults() -> None:
    params = SamplingParams(do_sample=True).resolve()
    assert (params.max_new_tokens, params.min_new_tokens, params.max_length) == (256, 0, None)
    assert (params.temperature, params.top_k, params.top_p, params.min_p) == (1.0, 50, 1.0, 0.0)
    assert (params.repetition_penalty, params.no_repeat_ngram_size) == (1.0, 0)
    assert (params.num_beams, params.num_return_sequences) == (1, 1)
    assert (params.stop_strings, params.eos_token_ids, params.logprobs) == ((), frozenset(), None)


def test_the_checkpoint_fills_in_what_was_not_given() -> None:
    config: dict[str, object] = {
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.9,
        "top_k": 20,
        "repetition_penalty": 1.1,
        "eos_token_id": [3, 1],
        "max_new_tokens": 7,
        "stop_strings": "END",
        "pad_token_id": 0,
        "transformers_version": "4.37.0",
    }
    numpy_id: Any = np.int64(4)
    params = SamplingParams(top_p=0.5, eos_token_id=numpy_id).resolve(config)
    assert (params.temperature, params.top_p, params.top_k) == (0.6, 0.5, 20)
    assert (params.repetition_penalty, params.max_new_tokens) == (1.1, 7)
    assert (params.eos_token_ids, params.stop_strings) == (frozenset({4}), ("END",))
    assert SamplingParams().resolve(config).eos_token_ids == {1, 3}
    assert SamplingParams(ignore_eos=True).resolve(config).eos_token_ids == frozenset()
    assert SamplingParams(stop_strings=[]).resolve(config).stop_strings == ()


def test_an_eos_token_that_can_never_come_is_refused() -> None:
    assert SamplingParams(eos_token_id=9).resolve(vocab_size=10).eos_token_ids == {9}
    with pytest.raises(OptionError, match="eos_token_id=10"):
        SamplingParams(eos_token_id=[1, 10]).resolve(vocab_size=10)


def test_more_tokens_than_there_are_cannot_be_reported_and_all_of_them_may_be_drawn() -> None:
    assert SamplingParams(logprobs=10).resolve(vocab_size=10).logprobs == 10
    with pytest.raises(OptionError, match="logprobs=11 is more than the 10 tokens"):
        SamplingParams(logprobs=11).resolve(vocab_size=10)
    assert SamplingParams(top_k=10**20).resolve(vocab_size=10).top_k == 10
    assert SamplingParams(top_k=0, temperature=1).resolve(vocab_size=10).top_k == 0


def test_total_lengths_of_the_checkpoint_give_way_to_new_token_counts() -> None:
    config: dict[str, object] = {"max_length": 20, "min_length": 12}
    params = SamplingParams().resolve(config)
    assert params.min_length == 12
    assert params.new_token_limit(15) == 5
    with pytest.raises(OptionError, match=r"20 tokens and .*max_length=20"):
        params.new_token_limit(20)
    given = SamplingParams(max_new_tokens=30, min_new_tokens=0).resolve(config)
    assert (given.min_length, given.new_token_limit(100)) == (0, 30)


@pytest.mark.parametrize(
    ("field", "value", "options"),
    [
        *[("constraints", [1], {}), ("force_words_ids", [[4]], {}), ("token_healing", True, {})],
        *[("guidance_scale", 2.0, {}), ("max_time", 3.0, {}), ("num_beam_groups", 2, {})],
        *[("penalty_alpha", 0.6, {}), ("watermarking_config", {"bias": 2.5}, {})],
        *[("diversity_penalty", 0.5, {"num_beams": 2})],
    ],
)
def test_a_checkpoint_that_asks_for_what_kept_lacks_is_refused(
    field: str, value: object, options: dict[str, Any]
) -> None:
    with pytest.raises(OptionError, match=f"generation_config.json sets {field}="):
        SamplingParams(**options).resolve({field: value})


def test_neutral_idle_and_unknown_fields_of_a_checkpoint_pass() -> None:
    neutral: dict[str, object] = {
        "typical_p": 1.0,
        "num_beam_groups": 1,
        "bad_words_ids": None,
        "suppress_tokens": [],
        "encoder_repetition_penalty": 1.0,
        "encoder_no_repeat_ngram_size": 0,
        "guidance_scale": 1,
        "diversity_penalty": 0.0,
        "renormalize_logits": False,
        "_from_model_config": True,
        "something_new": {"a": 1},
    }
    SamplingParams(do_sample=True, num_beams=2).resolve(neutral)
    SamplingParams().resolve({"typical_p": 0.5, "renormalize_logits": True})


def test_a_seed_is_kept_or_taken_from_the_system() -> None:
    assert SamplingParams(seed=2**64 - 1).resolve().seed == 2**64 - 1
    seeds = {SamplingParams().resolve().seed for _ in range(4)}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**53 for seed in seeds)


def test_params_are_frozen_hashable_and_canonical() -> None:
    params = SamplingParams(stop_strings=["b", "a", "b"], eos_token_id=[2, 1, 2], temperature=1)
    assert (params.stop_strings, params.eos_token_id) == (("b", "a"), (1, 2))
    assert isinstance(params.temperature, float)
    assert hash(params) == hash(dataclasses.replace(params))
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.top_k = 3  # type: ignore[misc]


@pytest.mark.parametrize("field", CACHE_FIELDS, ids=lambda field: field.name)
def test_an_option_of_the_cache_is_sent_to_its_place(field: Field[object]) -> None:
    with pytest.raises(OptionError, match=rf"^{field.name} .*; .*CacheOptions\({field.name}="):
        SamplingParams(**{field.name: None})
    with pytest.raises(OptionError, match="as cache_options"):
        dataclasses.replace(SamplingParams(), **{field.name: None})


def test_an_unknown_option_is_refused_with_those_there_are() -> None:
    with pytest.raises(OptionError, match=r"^SamplingParams has no temprature; .* temperature,"):
        SamplingParams(temprature=1)  # type: ignore[call-arg]
    assert "temperature" in inspect.signature(SamplingParams).parameters
