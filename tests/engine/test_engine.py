"""Batched equals alone, with fewer slots than requests, and whatever happens on the way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kept import (
    Completion,
    ContextLengthError,
    GenerationError,
    GenerationInterrupted,
    OptionError,
    SamplingError,
)
from kept.engine import ContextRule, Request, Room, make_group
from kept.llm.engines import Engines
from kept.llm.generation import Generation
from kept.options import CACHE_FIELDS, CacheOptions

from . import toy
from .requests import expected, make_engine, outcome, resolved, run
from .toy import VOCAB, Toy

KINDS = ("dynamic", "static", "sliding", None)
PROMPTS = [[1], [2, 3, 4, 5, 6, 7, 8, 9], [3, 1], [4] * 5, [5, 6, 7], [6, 0, 6, 0], [7, 7]]
RULE = ContextRule(64)


def generation(model: Toy, prompts: list[list[int]], slots: int, **options: Any) -> Generation:
    of_cache = {f.name: options.pop(f.name) for f in CACHE_FIELDS if f.name in options}
    caching = CacheOptions(**of_cache).resolve()
    engines = Engines(model, slots, 4, Room())
    return Generation(model, None, prompts, resolved(**options), caching, engines)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slots", [1, 2, 7])
def test_more_prompts_than_slots(kind: str | None, slots: int) -> None:
    # Different lengths and an end token: slots fall free at different times.
    several = [
        resolved(max_new_tokens=3 + 4 * (i % 3), eos_token_id=[2]) for i in range(len(PROMPTS))
    ]
    groups = [make_group(p, params, RULE) for p, params in zip(PROMPTS, several, strict=True)]
    model = Toy()
    found = run(make_engine(model, slots=slots, kind=kind, chunk=5), groups)
    assert found == [expected(p, params, RULE) for p, params in zip(PROMPTS, several, strict=True)]
    assert {reason for [(_, reason)] in found} == {"stop", "length"}
    if kind is not None:
        assert max(model.rows) <= 5 + slots


@pytest.mark.parametrize("kind", KINDS)
def test_return_sequences_fork_from_one_prompt(kind: str | None) -> None:
    params = resolved(max_new_tokens=9, num_return_sequences=4, do_sample=True, eos_token_id=[2, 3])
    groups = [make_group(prompt, params, RULE) for prompt in PROMPTS[:3]]
    model = Toy()
    found = run(make_engine(model, slots=5, kind=kind), groups)
    assert found == [expected(prompt, params, RULE) for prompt in PROMPTS[:3]]
    if kind is not None:
        num_new = sum(len(tokens) - 1 for results in found for tokens, _ in results)
        assert sum(model.rows) == sum(map(len, PROMPTS[:3])) + num_new


@pytest.mark.parametrize("kind", KINDS)
def test_beams_wider_than_the_batch(kind: str | None) -> None:
    options = {"num_beams": 5, "num_return_sequences": 2, "max_new_tokens": 8, "eos_token_id": [2]}
    if kind is None:
        options["use_cache"] = False
    else:
        options["cache_implementation"] = kind
        options |= {"sliding_window": 64} if kind == "sliding" else {}
    together = generation(Toy(), PROMPTS, 2, **options).run()
    # Alone and without a cache, so that no beam can go on from another one's keys.
    for name in ("cache_implementation", "sliding_window"):
        options.pop(name, None)
    options["use_cache"] = False
    alone = [c for p in PROMPTS for c in generation(Toy(), [p], 16, **options).run()]
    assert [(c.token_ids, c.score) for c in together] == [(c.token_ids, c.score) for c in alone]
    assert [(c.prompt_index, c.index) for c in together] == [
        (i, k) for i in range(len(PROMPTS)) for k in range(2)
    ]


def test_a_group_wider_than_the_engine_is_refused() -> None:
    engine = make_engine(Toy(), slots=2)
    with pytest.raises(OptionError, match=r"of 3 needs as many slots.*has 2"):
        engine.submit(Request(make_group([1], resolved(num_beams=3), RULE)))


@st.composite
def requests(draw: st.DrawFn) -> tuple[list[int], dict[str, Any]]:
    prompt = draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9))
    options: dict[str, Any] = {"max_new_tokens": draw(st.integers(1, 7))}
    if draw(st.booleans()):
        options["eos_token_id"] = draw(st.sampled_from([[2], [0, 5]]))
    kind = draw(st.sampled_from(["greedy", "samples", "beams"]))
    if kind == "samples":
        options |= {"do_sample": True, "num_return_sequences": draw(st.integers(1, 3))}
        options["seed"] = draw(st.integers(0, 99))
    elif kind == "beams":
        options["num_beams"] = draw(st.integers(2, 3))
        options["num_return_sequences"] = draw(st.integers(1, options["num_beams"]))
        options["early_stopping"] = draw(st.sampled_from([True, False, "never"]))
    return prompt, options


@settings(max_examples=25)
@given(
    mix=st.lists(requests(), min_size=1, max_size=6),
    slots=st.integers(3, 6),
    chunk=st.integers(1, 12),
    kind=st.sampled_from(KINDS),
)
def test_any_mix_equals_each_alone(
    mix: list[tuple[list[int], dict[str, Any]]], slots: int, chunk: int, kind: str | None
) -> None:
    def groups() -> list[Any]:
        return [make_group(p, resolved(**options), RULE) for p, options in mix]

    together = run(make_engine(Toy(), slots=slots, kind=kind, chunk=chunk), groups())
    for (prompt, options), found, group in zip(mix, together, groups(), strict=True):
        assert [found] == run(make_engine(Toy(), slots=3, kind=None), [group])
        if "num_beams" not in options:
            assert found == expected(prompt, resolved(**options), RULE)


@settings(max_examples=15)
@given(
    prompts=st.lists(
        st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=14), min_size=1, max_size=4
    ),
    hop=st.integers(1, 8),
    kind=st.sampled_from(KINDS),
    num_beams=st.sampled_from([1, 2]),
)
def test_any_sliding_window_equals_each_alone(
    prompts: list[list[int]], hop: int, kind: str | None, num_beams: int
) -> None:
    rule = {"slides": True, "hop": hop}
    params = resolved(max_new_tokens=13, num_beams=num_beams)
    groups = [make_group(p, params, ContextRule(8, **rule)) for p in prompts]
    found = run(make_engine(Toy(context=8), slots=2, kind=kind, chunk=3, **rule), groups)
    for prompt, results in zip(prompts, found, strict=True):
        alone = make_group(prompt, params, ContextRule(8, **rule))
        assert [results] == run(make_engine(Toy(context=8), slots=2, kind=None, **rule), [alone])
        if num_beams == 1:
            assert results == expected(prompt, params, ContextRule(8, **rule))


def test_the_end_of_the_context() -> None:
    params = resolved(max_new_tokens=50)
    for length in (1, 7, 8):
        [(tokens, reason)] = expected([1] * length, params, ContextRule(8))
        group = make_group([1] * length, params, ContextRule(8))
        assert run(make_engine(Toy(context=8), slots=1), [group]) == [[(tokens, reason)]]
        assert len(tokens) == 9 - length
        assert reason == "length"
    with pytest.raises(ContextLengthError):
        make_group([1] * 9, params, ContextRule(8))


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_is_interrupted_can_be_taken_again(
    kind: str | None, options: dict[str, Any]
) -> None:
    params = resolved(max_new_tokens=6, **options)
    whole = run(
        make_engine(Toy(), slots=6, kind=kind), [make_group(p, params, RULE) for p in PROMPTS]
    )
    for at in (1, 2, 5, 9):
        model = Toy()
        model.fail_at[at] = KeyboardInterrupt()
        engine = make_engine(model, slots=6, kind=kind, chunk=4)
        groups = [make_group(p, params, RULE) for p in PROMPTS]
        with pytest.raises(KeyboardInterrupt):
            run(engine, groups)
        assert run(engine, []) == []
        assert [outcome(group) for group in groups] == whole


def test_progress_and_interruption() -> None:
    model = Toy()
    seen: list[tuple[int, int]] = []
    generation(model, PROMPTS, 2, max_new_tokens=3).run(lambda done, of: seen.append((done, of)))
    assert seen[-1] == (7, 7)
    assert seen == sorted(seen)
    model = Toy()
    model.fail_at[5] = KeyboardInterrupt()
    with pytest.raises(GenerationInterrupted) as caught:
        generation(model, PROMPTS, 2, max_new_tokens=3).run()
    reasons = []
    for completion, prompt in zip(caught.value.completions, PROMPTS, strict=True):
        assert isinstance(completion, Completion)
        [(tokens, _)] = expected(prompt, resolved(max_new_tokens=3), RULE)
        assert completion.token_ids == tokens[: len(completion.token_ids)]
        reasons.append(completion.finish_reason)
    assert reasons == ["length", *["interrupted"] * 6]


def test_counts_of_a_completion() -> None:
    [found] = generation(Toy(), [[1, 2, 3]], 4, max_new_tokens=5).run()
    assert (found.prompt_tokens, found.cached_tokens, len(found.token_ids)) == (3, 0, 5)
    assert found.cache_bytes > 0
    assert found.time_to_first_token is not None
    assert 0 < found.time_to_first_token <= found.total_time
    [single] = generation(Toy(), [[1]], 4, max_new_tokens=1).run()
    assert single.tokens_per_second is None
    [uncached] = generation(Toy(), [[1]], 4, max_new_tokens=2, use_cache=False).run()
    assert uncached.cache_bytes == 0


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"num_beams": 2, "do_sample": True}])
def test_logits_that_are_no_numbers(monkeypatch: pytest.MonkeyPatch, options: Any) -> None:
    monkeypatch.setattr(toy, "next_logits", lambda tokens: torch.full((VOCAB,), torch.nan))
    with pytest.raises(GenerationError, match=r"^prompt 0: .*check the model's weights") as caught:
        generation(Toy(), [[1, 2]], 2, max_new_tokens=3, **options).run()
    assert isinstance(caught.value, SamplingError)
    assert isinstance(caught.value.__cause__, SamplingError)
    assert {c.finish_reason for c in caught.value.completions} == {"error"}
