"""An engine for coroutines: the same texts, and nothing left of those that nobody hears out."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing
from typing import Any

import pytest

from kept import EngineError, OptionError
from kept.engine import AsyncEngine, Engine, Event, Piece, Request, make_group

from .requests import expected, outcome, pooled, resolved
from .test_sharing import RULE, check_nothing_is_left, story
from .toy import Toy

PROMPTS = [story(70), story(70), [*story(66), 1, 2], story(9, 1)]


def request(prompt: list[int], **options: Any) -> Request:
    return Request(make_group(prompt, resolved(**options), RULE))


def engine(model: Toy | None = None) -> Engine:
    return pooled(model or Toy(512), slots=4, blocks=30, chunk=40)


async def heard(of: AsyncEngine, one: Request) -> list[tuple[int, ...]]:
    """The tokens of each text, put together from its pieces."""
    found: list[tuple[int, ...]] = [() for _ in one.group.results]
    async for piece in of.generate(one):
        found[piece.index] += piece.token_ids
    return found


def test_everyone_hears_a_text_of_theirs() -> None:
    options = [
        {"max_new_tokens": 12, "do_sample": True, "num_return_sequences": 2},
        {"max_new_tokens": 9},
        {"max_new_tokens": 5, "num_beams": 3},
        {"max_new_tokens": 30, "do_sample": True, "seed": 8},
    ]
    requests = [request(p, **o) for p, o in zip(PROMPTS, options, strict=True)]
    runs = engine()

    async def run() -> list[list[tuple[int, ...]]]:
        async with AsyncEngine(runs) as served:
            return await asyncio.gather(*(heard(served, one) for one in requests))

    for one, prompt, found in zip(requests, PROMPTS, asyncio.run(run()), strict=True):
        assert found == [tokens for tokens, _ in outcome(one.group)]
        if one.group.params.num_beams == 1:
            assert outcome(one.group) == expected(prompt, one.group.params, RULE)
    check_nothing_is_left(runs)


@pytest.mark.parametrize("takes", [lambda _: True, lambda n: n % 3 == 0, lambda _: False])
def test_pieces_are_passed_on_in_their_order(takes: Any) -> None:
    """Behind the first, but for the last of each text; what is not taken is yielded, once."""
    one = request(PROMPTS[0], max_new_tokens=40, do_sample=True, num_return_sequences=2)
    found: list[tuple[int, ...]] = [(), ()]
    passed, yielded = list[int](), list[bool]()

    def pass_on(piece: Piece) -> bool:
        assert yielded, "the first is yielded"
        assert not piece.is_last
        passed.append(piece.index)
        if taken := bool(takes(len(passed))):
            found[piece.index] += piece.token_ids
        return taken

    async def run() -> None:
        async with AsyncEngine(engine()) as served:
            async for piece in served.generate(one, pass_on):
                yielded.append(piece.is_last)
                found[piece.index] += piece.token_ids

    asyncio.run(run())
    assert found == [tokens for tokens, _ in outcome(one.group)]
    assert sum(yielded) == 2
    assert passed


def test_what_passing_on_raises_ends_the_request() -> None:
    runs, one = engine(), request(PROMPTS[0], max_new_tokens=200)

    def pass_on(piece: Piece) -> bool:
        raise ValueError("cannot be told")

    async def run() -> None:
        async with AsyncEngine(runs) as served:
            async for _ in served.generate(one, pass_on):
                continue

    with pytest.raises(ValueError, match="cannot be told"):
        asyncio.run(run())
    assert outcome(one.group)[0][1] == "interrupted"
    check_nothing_is_left(runs)


def test_who_leaves_has_it_cancelled() -> None:
    runs = engine()
    left, other = request(PROMPTS[0], max_new_tokens=200), request(PROMPTS[3], max_new_tokens=4)

    async def run() -> None:
        async with AsyncEngine(runs) as served:
            async with aclosing(served.generate(left)) as pieces:
                async for _ in pieces:
                    break
            await heard(served, other)
            waiting = asyncio.create_task(heard(served, request(PROMPTS[1], max_new_tokens=300)))
            await asyncio.sleep(0)
            waiting.cancel()

    asyncio.run(run())
    assert outcome(left.group)[0][1] == "interrupted"
    assert outcome(other.group) == expected(PROMPTS[3], other.group.params, RULE)
    assert not runs.has_work
    check_nothing_is_left(runs)


def test_who_lags_hears_the_rest_as_one_piece() -> None:
    one = request(PROMPTS[0], max_new_tokens=40)

    async def run() -> list[int]:
        async with AsyncEngine(engine()) as served:
            lengths = []
            async for piece in served.generate(one):
                lengths.append(len(piece.token_ids))
                await asyncio.to_thread(served._wait_until_idle)
            return lengths

    lengths = asyncio.run(run())
    assert sum(lengths) == 40
    assert len(lengths) <= 2


def test_a_pass_that_fails_is_told_by_the_texts_in_it() -> None:
    model = Toy(512)
    model.fail_at[3] = RuntimeError("boom")
    requests = [request(p, max_new_tokens=6) for p in PROMPTS]

    async def run() -> None:
        async with AsyncEngine(engine(model)) as served:
            await asyncio.gather(*(heard(served, one) for one in requests[1:]))
            await heard(served, requests[0])

    asyncio.run(run())
    assert "error" in [outcome(one.group)[0][1] for one in requests]
    for one, prompt in zip(requests, PROMPTS, strict=True):
        if one.group.results[0].finish_reason == "error" and one is not requests[0]:
            assert str(one.group.results[0].error) == "boom"
        else:
            assert outcome(one.group) == expected(prompt, one.group.params, RULE)


def test_a_drained_engine_ends_what_it_has_and_takes_no_more() -> None:
    one = request(PROMPTS[0], max_new_tokens=20)

    async def run() -> list[tuple[int, ...]]:
        served = AsyncEngine(engine())
        hearing = asyncio.create_task(heard(served, one))
        await asyncio.sleep(0)
        await served.drain()
        refused = request(PROMPTS[1], max_new_tokens=3)
        with pytest.raises(OptionError, match="drains or is closed"):
            await heard(served, refused)
        found = await hearing
        await served.aclose()
        async with AsyncEngine(engine()) as another:
            assert [len(tokens) for tokens in await heard(another, refused)] == [3]
        return found

    assert [len(tokens) for tokens in asyncio.run(run())] == [20]
    assert outcome(one.group) == expected(PROMPTS[0], one.group.params, RULE)


def test_a_callback_that_raises_ends_its_request_alone() -> None:
    runs, calls = engine(), []

    def failing(event: object) -> None:
        calls.append(event)
        raise ValueError("not today")

    one, other = request(PROMPTS[0], max_new_tokens=9), request(PROMPTS[1], max_new_tokens=9)
    one.on_event = failing
    for each in (one, other):
        runs.submit(each)
    while runs.has_work:
        runs.step()
    assert len(calls) == 1
    assert outcome(one.group)[0][1] == "error"
    assert "not today" in str(one.group.results[0].error)
    assert outcome(other.group) == expected(PROMPTS[1], other.group.params, RULE)


def test_a_callback_that_ends_its_thread_ends_its_request_alone() -> None:
    """Else all others would wait for a thread that is gone."""
    runs = engine()
    ended, other = request(PROMPTS[0], max_new_tokens=9), request(PROMPTS[3], max_new_tokens=9)

    def leave(event: object) -> None:
        raise SystemExit

    async def run() -> list[tuple[int, ...]]:
        async with AsyncEngine(runs) as served:
            ended.on_event = leave
            runs.submit(ended)
            return await asyncio.wait_for(heard(served, other), 60)

    assert asyncio.run(run()) == [tokens for tokens, _ in outcome(other.group)]
    assert other.group.results[0].finish_reason == "length"
    assert "SystemExit" in str(ended.group.results[0].error)
    check_nothing_is_left(runs)


def test_a_thread_that_cannot_go_on_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = engine()

    def failing(*_: object) -> None:
        raise OSError("nothing works")

    async def run() -> None:
        served = AsyncEngine(runs)
        hearing = [asyncio.create_task(heard(served, request(p, max_new_tokens=50)))
                   for p in PROMPTS[:2]]  # fmt: skip
        await asyncio.sleep(0)
        monkeypatch.setattr(runs, "step", failing)
        monkeypatch.setattr(runs, "end", failing)
        for each in hearing:
            with pytest.raises(EngineError, match="nothing works; make another engine"):
                await asyncio.wait_for(each, 60)
        with pytest.raises(EngineError):
            await heard(served, request(PROMPTS[2], max_new_tokens=2))
        with pytest.raises(EngineError):
            await asyncio.wait_for(served.drain(), 60)
        await asyncio.wait_for(served.aclose(), 60)

    asyncio.run(run())


@pytest.mark.parametrize("seconds", [0, -1.0, float("inf"), float("nan")])
def test_a_step_time_that_is_none(seconds: float) -> None:
    with pytest.raises(OptionError, match=r"max_step_time=.*finite number of seconds"):
        Engine(Toy(), None, RULE, max_step_time=seconds)


def test_a_weight_that_is_none() -> None:
    with pytest.raises(OptionError, match="tenant 'a' has weight 0"):
        Engine(Toy(), None, RULE, weights={"a": 0})


def test_a_request_that_is_refused_or_over_is_refused_again() -> None:
    wide = request(PROMPTS[0], max_new_tokens=2, num_beams=9)
    over = request(PROMPTS[0], max_new_tokens=2)

    async def run() -> None:
        async with AsyncEngine(engine()) as served:
            await heard(served, over)
            for one, why in ((wide, "needs as many slots"), (over, "has ended")):
                for _ in range(2):
                    with pytest.raises(OptionError, match=why):
                        await heard(served, one)

    asyncio.run(run())


def test_a_forked_child_is_told_that_nobody_steps() -> None:
    """Whose thread stays behind with the parent: what waited for it would wait for ever."""

    async def run() -> None:
        async with AsyncEngine(engine()) as served:
            alive, served._thread = served._thread, threading.Thread()
            with pytest.raises(EngineError, match="forked process; make another AsyncEngine"):
                await heard(served, request(PROMPTS[0]))
            served._thread = alive

    asyncio.run(run())


def test_what_a_fork_leaves_behind_ends_and_tells_nobody() -> None:
    runs, told = engine(), list[Event]()
    mine, theirs, unheard = (request(x, max_new_tokens=9) for x in PROMPTS[1:])
    for one in (mine, theirs, unheard):
        one.on_event = told.append
    for one in (mine, theirs):
        runs.submit(one)
    runs.step()
    runs.submit(unheard)
    told.clear()
    theirs.asked_by = unheard.asked_by = -1
    runs.only_thread(threading.get_ident())
    while runs.has_work:
        runs.step()
    assert outcome(mine.group) == expected(PROMPTS[1], mine.group.params, RULE)
    assert {event.request for event in told} == {mine}
    assert [x.group.results[0].finish_reason for x in (theirs, unheard)] == ["interrupted"] * 2
    check_nothing_is_left(runs)
