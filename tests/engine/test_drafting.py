"""Who gets drafts, from what, how many, and what they may cost."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from laws.planted import drafting_freely
from laws.tiny import VOCAB, native_model, plain_model

from kept import machine
from kept.cache import make_cache
from kept.engine import ContextRule, Engine, Request, make_group, suffix_drafts
from kept.engine.draft_worth import SHARE, DraftWorth, Hope
from kept.engine.passes import Work
from kept.engine.step_time import StepTime
from kept.ops import use_threads
from kept.sampling import SamplingParams, TokenHistory

needs_native = pytest.mark.skipif(
    not machine.NATIVE_AVAILABLE, reason="installed without a C++ compiler"
)
PART = [Random(3).randrange(VOCAB - 1) for _ in range(20)]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    yield
    if machine.NATIVE_AVAILABLE:
        use_threads()


def engine_of(model: Any, *, kind: str | None = "dynamic", slots: int = 3, **fields: Any) -> Engine:
    cache = None
    if kind is not None:
        cache = make_cache(model.kv_shapes, kind, num_slots=slots, dtype=model.dtype, **fields)
    return Engine(model, cache, ContextRule(model.config.context), max_slots=slots)


def ask(
    engine: Engine, prompt: list[int], *, most: int = 48, to: str = "", **options: Any
) -> Request:
    given = {"max_new_tokens": 40, "seed": 1, "prompt_lookup_num_tokens": most, **options}
    params = SamplingParams(**given).resolve(vocab_size=VOCAB)
    tenant, _, salt = to.partition("/")
    group = make_group(prompt, params, engine.rule)
    return engine.submit(Request(group, tenant=tenant, salt=salt))


def finish(engine: Engine) -> None:
    with drafting_freely(engine, 1):
        while engine.has_work:
            engine.step()


@needs_native
def test_completions_and_counters_say_what_was_drafted() -> None:
    engine = engine_of(native_model("llama", "bf16"))
    options: dict[str, Any] = {"do_sample": True, "temperature": 0.3, "max_new_tokens": 120}
    requests = [ask(engine, PART * 2, **options), ask(engine, PART[:3], **options)]
    finish(engine)
    done, counters = [r.group.results[0].completion() for r in requests], engine.counters
    assert counters.accepted_tokens == sum(one.accepted_tokens for one in done) > 0
    assert counters.drafted_tokens == sum(one.drafted_tokens for one in done)
    assert counters.generated_tokens == sum(len(one.token_ids) for one in done) == 240
    assert counters.drafted_steps <= counters.steps
    for one in done:
        assert one.num_steps == 120 - one.accepted_tokens
        # Its prompt, a row for each step but the first, and the drafts.
        assert one.computed_tokens == one.prompt_tokens + one.num_steps - 1 + one.drafted_tokens


@needs_native
def test_a_text_is_not_drafted_beyond_its_last_token() -> None:
    """A static cache has no room for a token more."""
    model = native_model("llama", "bf16")
    engine = engine_of(model, kind="static", max_cache_len=len(PART) + 39)
    request = ask(engine, PART, do_sample=True, temperature=0.2)
    finish(engine)
    assert request.group.results[0].completion().finish_reason == "length"
    assert request.group.results[0].drafts.drafted.total()


@needs_native
def test_texts_of_a_tenant_are_drafted_from_and_no_others() -> None:
    engine = engine_of(native_model("llama", "bf16"))
    options: dict[str, Any] = {"do_sample": True, "temperature": 3.0, "max_new_tokens": 60}

    def accepted(to: str) -> int:
        request = ask(engine, PART, to=to, **options)
        finish(engine)
        return request.group.results[0].drafts.accepted.total()

    assert accepted("a") < 10
    assert accepted("b") < 10
    assert accepted("a/salted") < 10
    assert accepted("a") > 20
    engine.forget()
    assert accepted("a") < 10


@needs_native
def test_what_is_kept_of_tenants_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suffix_drafts, "RECENT", 100)
    engine = engine_of(native_model("llama", "bf16"))
    for i in range(30):
        ask(engine, PART, to=str(i % 20), max_new_tokens=70)
        finish(engine)
    recent = engine._drafting.suffixes.recent
    assert len(recent) == suffix_drafts.MOST_TENANTS
    assert all(others.num_tokens <= 100 + 71 for others in recent.values())
    assert not engine._drafting.is_asked


@needs_native
def test_nobody_makes_room_for_drafts() -> None:
    model = native_model("llama", "bf16")
    size = make_cache(model.kv_shapes, dtype=model.dtype).block_bytes
    engine = engine_of(model, pool_bytes=3 * size)
    requests = [ask(engine, PART[:6] * 9, max_new_tokens=8, temperature=0.2) for _ in range(3)]
    finish(engine)
    assert [r.group.results[0].completion().finish_reason for r in requests] == ["length"] * 3
    assert engine.counters.parked == 0


@pytest.mark.parametrize("name", ["reference", "no cache", "dynamic"])
def test_where_there_are_none_the_log_says_so_once(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    if name == "reference":
        engine, why = engine_of(plain_model("llama", native_dtype())), "torch reference"
    elif not machine.NATIVE_AVAILABLE:
        pytest.skip("installed without a C++ compiler")
    elif name == "dynamic":
        engine, why = engine_of(native_model("dynamic", "bf16")), "its rotary scaling"
    else:
        engine, why = engine_of(native_model("llama", "bf16"), kind=None), "without a cache"
    with caplog.at_level(logging.INFO, "kept.engine.drafting"):
        for _ in range(2):
            request = ask(engine, PART, max_new_tokens=6)
            finish(engine)
            assert request.group.results[0].drafts.drafted.total() == 0
    [message] = caplog.messages
    assert why in message


def native_dtype() -> Any:
    import torch

    return torch.bfloat16


def work_of(lengths: list[int]) -> list[Work]:
    """One token of sequences that have computed so many."""
    found = []
    rule = ContextRule(10_000)
    for length in lengths:
        params = SamplingParams(seed=0).resolve(vocab_size=VOCAB)
        group = make_group([1] * (length + 1), params, rule)
        group.live[0].history = TokenHistory([1] * (length + 1))
        group.live[0].num_computed = length
        found.append(Work(group.live[0], 1, Request(group), False))
    return found


def learned(per_pass: float, per_row: float) -> StepTime:
    """A step time that has seen passes of one row and of many."""
    found = StepTime()
    for rows in (1, 2, 4, 8, 16, 64, 512) * 8:
        found.observe(rows, rows * 100, per_pass + per_row * rows)
    return found


def paid(worth: DraftWorth, work: list[Work], seconds: float, count: int = 200) -> None:
    for _ in range(count):
        worth.took(work, seconds, len(work), again=True)


def test_as_many_are_taken_as_are_worth_while() -> None:
    work = work_of([100])
    sure = Hope(0, list(range(16)), [0.99**i for i in range(1, 17)])
    doubtful = Hope(0, list(range(16)), [0.3**i for i in range(1, 17)])
    for per_row, of_doubtful in ((1e-6, range(1, 17)), (1e-3, range(1, 2)), (1e-2, range(1))):
        worth = DraftWorth(learned(1e-2, per_row))
        assert not worth.may_try
        paid(worth, work, 1e-2 + per_row)
        assert worth.may_try
        assert worth.choose(work, [sure]).get(0, 0) >= 12
        assert worth.choose(work, [doubtful]).get(0, 0) in of_doubtful
        assert worth.choose(work, []) == {}


def test_the_likelier_drafts_of_several_sequences_are_taken_first() -> None:
    work = work_of([100, 100, 100])
    worth = DraftWorth(learned(1e-2, 1e-3))
    paid(worth, work, 1.3e-2)
    hopes = [Hope(0, [1, 2, 3], [0.3, 0.05, 0.05]), Hope(2, [4, 5, 6], [0.97, 0.95, 0.9])]
    assert worth.choose(work, hopes) == {2: 3}


def test_drafts_that_never_come_cost_a_hundredth() -> None:
    """However sure they seem, and whatever a step with them takes."""
    work = work_of([100])
    worth, hope = DraftWorth(learned(1e-2, 1e-5)), Hope(0, [1] * 8, [0.99] * 8)
    took, num_steps, num_tries = 0.0, 20_000, 0
    for _ in range(num_steps):
        counts = worth.choose(work, [hope]) if worth.may_try else {}
        drafts = (1,) * counts.get(0, 0)
        seconds = 1.7e-2 if drafts else 1e-2
        item = work[0]._replace(num_new=1 + len(drafts), drafts=drafts)
        worth.took([item], seconds, 1, again=not drafts)
        took, num_tries = took + seconds, num_tries + bool(drafts)
    assert num_tries
    assert took < num_steps * 1e-2 * (1 + SHARE) + 2e-2


def test_drafts_that_come_pay_for_more() -> None:
    work = work_of([100])
    worth, hope = DraftWorth(learned(1e-2, 1e-5)), Hope(0, [1] * 8, [0.9] * 8)
    paid(worth, work, 1e-2, count=1)
    tries = 0
    for _ in range(50):
        counts = worth.choose(work, [hope]) if worth.may_try else {}
        drafts = (1,) * counts.get(0, 0)
        item = work[0]._replace(num_new=1 + len(drafts), drafts=drafts)
        worth.took([item], 1.2e-2 if drafts else 1e-2, 1 + len(drafts), again=not drafts)
        tries += bool(drafts)
    assert tries > 45
