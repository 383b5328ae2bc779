"""Options that were asked for before are not made concrete anew, and come to the same."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kept import LLM, OptionError, SamplingParams
from kept.serve.resolving import resolve


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM()


@pytest.mark.parametrize("is_chat", [False, True])
@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(seed=7),
        SamplingParams(temperature=0.0, top_p=0.5, num_return_sequences=3, seed=7),
        SamplingParams(temperature=0.7, num_return_sequences=2, max_new_tokens=5, seed=7),
        SamplingParams(stop_strings=["a", "b"], logprobs=2, ignore_eos=True, seed=7),
        SamplingParams(sequence_bias={(5,): 2.0}, temperature=1.0, seed=7),
    ],
)
def test_the_second_time_gives_the_same(llm: LLM, params: SamplingParams, is_chat: bool) -> None:
    first = resolve(llm, params, is_chat)
    assert resolve(llm, params, is_chat) == first
    other, copies = resolve(llm, replace(params, seed=8), is_chat)
    assert (other, copies) == (replace(first[0], seed=8), first[1])
    fresh = {resolve(llm, replace(params, seed=None), is_chat)[0].seed for _ in range(4)}
    assert len(fresh) == 4


def test_what_is_refused_is_refused_each_time(llm: LLM) -> None:
    for _ in range(2):
        with pytest.raises(OptionError, match="logprobs"):
            resolve(llm, SamplingParams(logprobs=5000), False)
