"""An engine looked at: what it says adds up with its pool, and looking changes nothing."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from kept.blocks import BLOCK
from kept.engine import BlockState, Engine, Request, make_group
from kept.engine.recent import STEPS, Recent

from .requests import expected, make_engine, outcome, pooled, resolved
from .test_sharing import RULE, story
from .toy import Toy


def request(prompt: list[int], tenant: str = "", salt: str = "", **options: Any) -> Request:
    return Request(make_group(prompt, resolved(**options), RULE), tenant=tenant, salt=salt)


def check(engine: Engine) -> None:
    """A view adds up: with the counts of the pool, and with the tables of those who run."""
    view = engine.view()
    [blocks] = view.blocks
    assert engine.cache is not None
    [pool] = engine.cache.pools
    counts = view.snapshot.blocks
    assert counts is not None
    free, findable, held = (blocks.count(x) for x in list(BlockState)[:3])
    assert (free, findable, held) == (counts.free, counts.findable, counts.held)
    assert pool.num_used == int((blocks.states != BlockState.FREE).sum())
    assert ((blocks.users > 0) == (blocks.states != BlockState.FREE)).all()
    for slot in range(engine.cache.num_slots):
        for ids in engine.cache.slot_blocks(slot):
            assert (blocks.states[ids] == BlockState.HELD).all()
    known = (blocks.owners > 0) & (blocks.states != BlockState.FREE)
    assert known.sum() == findable + held
    assert sum(x.num_own_bytes for x in view.texts) <= pool.num_used * pool.block_bytes
    assert sum(view.num_texts) == len(view.texts)
    assert view.memory.held == held * pool.block_bytes
    assert view.memory.findable == findable * pool.block_bytes
    assert len(view.running) == view.snapshot.running == sum(x.running for x in view.tenants)
    assert view.num_waiting == sum(x.waiting for x in view.tenants)


def test_a_view_adds_up_after_every_step() -> None:
    engine = pooled(Toy(512), slots=3, blocks=14, chunk=48)
    common = story(130)
    asked = [
        ([*common, 1, 2], "a", "a", {"max_new_tokens": 20}),
        ([*common, 3], "a", "a", {"max_new_tokens": 70}),
        (common, "b", "b", {"max_new_tokens": 5, "num_return_sequences": 2, "do_sample": True}),
        (story(20, 3), "c", "b", {"max_new_tokens": 40}),
        ([*common, 1, 2, 7], "a", "a", {"max_new_tokens": 30}),
    ]
    requests = [request(prompt, *whose, **options) for prompt, *whose, options in asked]  # type: ignore[arg-type]
    for one in requests:
        engine.submit(one)
    while engine.has_work:
        engine.step()
        check(engine)
    for one, (prompt, *_) in zip(requests, asked, strict=True):
        assert outcome(one.group) == expected(prompt, one.group.params, RULE)
    view = engine.view()
    assert {(x.salt, x.tenant) for x in view.owners[1:]} == {("a", "a"), ("b", None)}
    assert {view.tenant_of(text) for text in view.texts} == {"a", None}
    assert [note.tenant for note in view.ended].count("a") == 3
    assert sum(note.generated_tokens for note in view.ended) == 20 + 70 + 10 + 40 + 30
    last = view.ended[-1]
    assert last.ended is not None
    assert view.steps[-1].number == engine.counters.steps
    assert sum(x.read + x.decoded for x in view.steps) == engine.counters.computed_tokens
    assert sum(x.drawn for x in view.steps) == engine.counters.generated_tokens
    assert engine.view(since=view.steps[-1].number).steps == view.steps[-1:]
    assert [x.cost > 0 for x in view.tenants] == [True] * 3


def test_who_waits_says_for_what() -> None:
    engine = pooled(Toy(512), slots=2, blocks=5, chunk=16)
    prompt = story(120)
    first = request(story(200, 2), "a", max_new_tokens=100)
    engine.submit(first)
    engine.step()
    for tenant, tokens in (("b", prompt), ("c", [*story(200, 2), 5]), ("d", story(3))):
        engine.submit(request(tokens, tenant, max_new_tokens=4))
        engine.step()
    engine.submit(request(story(5), "e", max_new_tokens=4))
    engine.step()
    view = engine.view()
    assert [note.waits_for for note in view.waiting] == ["memory", "prefix", "slots"]
    assert [note.number for note in view.running] == [0, 3]
    while engine.has_work:
        engine.step()
    ended = {note.number: note for note in engine.view().ended}
    assert ended[2].cached_from == {"running": 200}
    assert [ended[n].miss_reason for n in (0, 1, 2)] == ["unknown", "unknown", None]


def test_only_so_many_steps_are_remembered() -> None:
    recent = Recent()
    for number in range(STEPS + 5):
        recent.stepped(number, 1, 0.1, [], 0, is_repeated=True)
    assert [x.number for x in recent.steps] == list(range(5, STEPS + 5))


def test_an_engine_without_blocks_has_none_to_show() -> None:
    engine = make_engine(Toy(64), slots=2, kind="static")
    engine.submit(request(story(8), max_new_tokens=4))
    engine.step()
    view = engine.view()
    assert (view.blocks, view.texts, len(view.running)) == ((), (), 1)


def test_a_text_is_dropped_and_not_found_again() -> None:
    engine = pooled(Toy(512), slots=2, blocks=30)
    one, other = request(story(150), max_new_tokens=4), request(story(90, 1), max_new_tokens=4)
    for each in (one, other):
        engine.submit(each)
    while engine.has_work:
        engine.step()
    text = max(engine.view().texts, key=lambda x: x.num_tokens)
    assert text.num_tokens == 153
    assert engine.drop(text)
    assert not engine.drop(text)
    assert not engine.drop(replace(engine.view().texts[0], salt="another"))
    check(engine)
    again = [request(story(150), max_new_tokens=4), request(story(90, 1), max_new_tokens=4)]
    for each in again:
        engine.submit(each)
    while engine.has_work:
        engine.step()
    assert [x.group.results[0].completion().cached_tokens for x in again] == [0, 89]


def test_a_text_that_runs_goes_on_when_it_is_dropped() -> None:
    engine = pooled(Toy(512), slots=1, blocks=30)
    one = request(story(150), max_new_tokens=80)
    engine.submit(one)
    for _ in range(20):
        engine.step()
    [text] = engine.view().texts
    assert text.is_leased
    assert engine.drop(text)
    while engine.has_work:
        engine.step()
        assert engine.view().texts == ()
    assert outcome(one.group) == expected(story(150), one.group.params, RULE)
    blocks = engine.snapshot().blocks
    assert blocks is not None
    assert (blocks.findable, blocks.held) == (0, 0)


def test_a_look_is_answered_between_two_steps_of_another_thread() -> None:
    engine = pooled(Toy(512), slots=4, blocks=60)
    requests = [request(story(20, i), max_new_tokens=60, ignore_eos=True) for i in range(4)]
    for one in requests:
        engine.submit(one)
    seen: list[int] = []

    def look() -> None:
        while engine.has_work:
            view = engine.view()
            assert len(view.blocks) == 1
            seen.append(view.snapshot.counters.steps)

    thread = threading.Thread(target=look)
    thread.start()
    while engine.has_work:
        engine.step()
    thread.join()
    assert len(set(seen)) > 5
    assert seen == sorted(seen)
    for i, one in enumerate(requests):
        assert outcome(one.group) == expected(story(20, i), one.group.params, RULE)


def test_what_fails_in_a_look_fails_for_who_asked_alone() -> None:
    engine = pooled(Toy(512), slots=1, blocks=30)
    one = request(story(BLOCK), max_new_tokens=100, ignore_eos=True)
    engine.submit(one)
    found: list[BaseException] = []

    def fail() -> None:
        raise ZeroDivisionError

    def ask() -> None:
        with pytest.raises(ZeroDivisionError) as error:
            engine._between_steps(fail)
        found.append(error.value)

    thread = threading.Thread(target=ask)
    thread.start()
    while engine.has_work:
        engine.step()
    thread.join()
    assert found
    assert outcome(one.group) == expected(story(BLOCK), one.group.params, RULE)
