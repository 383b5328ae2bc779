"""A row's largest few logits: they choose what the whole row would, or say that they cannot."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kept.sampling import (
    Key,
    Likeliest,
    SamplingParams,
    TokenHistory,
    num_likeliest,
    process_scores,
    sample,
)
from kept.sampling.likeliest import scores_to_draw_from

V = 400
INF = float("inf")
EOS = 3

some_options = st.fixed_dictionaries(
    {},
    optional={
        "do_sample": st.booleans(),
        "temperature": st.sampled_from([0.01, 0.7, 1.0, 1.3, 1e4, 1e-300]),
        "top_k": st.sampled_from([0, 1, 2, 50, 255, 256, 500]),
        "top_p": st.sampled_from([0.01, 0.5, 0.9, 0.999]),
        "min_p": st.sampled_from([0.0, 0.05]),
        "repetition_penalty": st.sampled_from([1.0, 1.2]),
        "no_repeat_ngram_size": st.sampled_from([0, 1]),
        "min_new_tokens": st.sampled_from([0, 5]),
        "logprobs": st.sampled_from([None, 0, 1, 5, 20]),
    },
)


def params_of(options: dict[str, Any]) -> Any:
    options = {"do_sample": True, **options}
    if not options["do_sample"]:
        options = {k: v for k, v in options.items() if not k.startswith(("temp", "top_", "min_p"))}
    return SamplingParams(**options, eos_token_id=EOS).resolve()


def largest(logits: torch.Tensor, count: int) -> Likeliest:
    values, tokens = logits.sort(dim=1, descending=True, stable=True)
    return Likeliest(values[:, :count], tokens[:, :count])


def outcome(*arguments: Any) -> Any:
    try:
        return sample(*arguments)
    except Exception as error:
        return type(error), str(error)


@given(
    options=some_options,
    seed=st.integers(0, 2**32),
    spread=st.sampled_from([0.0, 1e-6, 0.3, 3.0, 60.0]),
    grain=st.sampled_from([None, 0.5, 4.0]),  # so coarse, many logits tie
    hidden=st.sampled_from([0, 1, 300, 397, 399]),  # so many tokens are impossible
    extra=st.sampled_from([None, 1, 2, 51, 256, 400]),
)
def test_the_few_choose_what_the_whole_row_does(
    options: dict[str, Any],
    seed: int,
    spread: float,
    grain: float | None,
    hidden: int,
    extra: int | None,
) -> None:
    params = params_of(options)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, V, generator=generator) * spread
    if grain is not None:
        logits = (logits / grain).round() * grain
    logits[:, torch.randperm(V, generator=generator)[:hidden]] = -INF
    history = [TokenHistory([1, 7, 1]), TokenHistory([1, EOS, 9, 9])]
    keys = [Key(seed, 3), Key(seed + 1, 4)]
    best = largest(logits, num_likeliest(params) if extra is None else extra)
    arguments = (logits, [params] * 2, history, keys, None)
    assert outcome(*arguments, best) == outcome(*arguments)


@given(
    temperature=st.sampled_from([0.7, 1.0, 1.3]),
    top_k=st.sampled_from([1, 2, 50, 255]),
    top_p=st.sampled_from([0.3, 0.9, 1.0]),
    seed=st.integers(0, 2**32),
)
def test_they_decide_wherever_nothing_ties(
    temperature: float, top_k: int, top_p: float, seed: int
) -> None:
    params = params_of({"temperature": temperature, "top_k": top_k, "top_p": top_p})
    assert num_likeliest(params) == top_k + 1
    logits = torch.randperm(V, generator=torch.Generator().manual_seed(seed)).float()[None] / 9
    few, history = largest(logits, top_k + 1), TokenHistory([1])
    found = scores_to_draw_from(few.logits[0], few.tokens[0], params, history)
    assert found is not None
    scores, tokens = found
    whole = torch.full((V,), -INF)
    whole[tokens] = scores
    assert torch.equal(whole, process_scores(logits[0], params, history))
    assert torch.equal(tokens, tokens.sort().values)


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 0}, {"min_p": 0.1}, {"repetition_penalty": 1.1}, {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 1}, {"temperature": 1e-300}, {"do_sample": False}, {"top_k": 3},
    ],
)  # fmt: skip
def test_what_they_cannot_decide(options: dict[str, Any]) -> None:
    params = params_of(options)
    few = largest(torch.arange(4.0).repeat_interleave(2)[None], 4)  # the third ties with the fourth
    history = TokenHistory([1])
    assert scores_to_draw_from(few.logits[0], few.tokens[0], params, history) is None


def test_how_many_are_asked_for() -> None:
    def count(**options: Any) -> int:
        return num_likeliest(params_of(options))

    assert count() == 51
    assert count(logprobs=5) == 51
    assert count(logprobs=70) == 71
    assert count(top_k=255) == 256
    assert count(top_k=256) == 0
    assert count(top_k=300, logprobs=20) == 21
    assert count(do_sample=False) == 0
    assert count(do_sample=False, logprobs=0) == 0
    assert count(do_sample=False, logprobs=3) == 4
    assert count(repetition_penalty=1.1) == 0
    assert count(num_beams=3, logprobs=3) == 0
