"""Engines that share a room: who gives way to whom."""

from __future__ import annotations

import pytest
from interrupting import interrupted, some_of

from kept.cache import make_cache
from kept.engine import ContextRule, Engine, Phase, Request, Room, Scheduler, SlotCaches, make_group
from kept.ops import find_kv_codec

from .requests import expected, outcome, resolved
from .test_sharing import story
from .toy import Toy

RULE = ContextRule(512)
EACH = make_cache(Toy().kv_shapes).block_bytes


def engines(model: Toy, blocks: int, count: int = 2) -> list[Engine]:
    room = Room(blocks * EACH)

    def made() -> Engine:
        cache = make_cache(model.kv_shapes, num_slots=4, pool_bytes=room.limit)
        return Engine(model, cache, RULE, room=room)

    return [made() for _ in range(count)]


def slot_caches(model: Toy) -> SlotCaches:
    return SlotCaches(
        find_kv_codec("float32"),
        lambda num_slots: make_cache(
            model.kv_shapes, "static", num_slots=num_slots, max_cache_len=64
        ),
        lambda num_slots, _: num_slots * EACH,
    )


def request(length: int, seed: int = 0, **options: int) -> Request:
    return Request(make_group(story(length, seed), resolved(**options), RULE))


def check(*requests: Request) -> None:
    for one in requests:
        prompt = one.group.results[0].history.tokens[: one.group.results[0].history.num_prompt]
        assert outcome(one.group) == expected(prompt.tolist(), one.group.params, RULE)


def finish(engine: Engine, one: Request, most: int = 600) -> None:
    if one.phase is Phase.OUTSIDE:
        engine.submit(one)
    for _ in range(most):
        if one.finished:
            return
        engine.step()
    raise AssertionError("it waits for ever")


def test_texts_of_idle_engines_go_first_and_the_oldest_of_them() -> None:
    one, other, third = engines(Toy(512), 9, 3)
    finish(one, request(128, 1, max_new_tokens=1))
    finish(other, request(128, 2, max_new_tokens=1))
    finish(one, request(128, 3, max_new_tokens=1))
    finish(third, request(170, 4, max_new_tokens=1))
    found = [engine.snapshot().blocks for engine in (one, other, third)]
    assert [blocks.findable for blocks in found if blocks is not None] == [4, 2, 3]
    finish(third, request(190, 5, max_new_tokens=1))
    found = [engine.snapshot().blocks for engine in (one, other, third)]
    # Its own text stays, as it is busy; of the idle ones the oldest goes, and half of the next.
    assert [blocks.findable for blocks in found if blocks is not None] == [2, 1, 6]


def steps_until_let_in(most: int) -> int | None:
    """After how many steps of an engine that has more to do than room for another's text starts."""
    model = Toy(512)
    busy, other = engines(model, 6)
    asked: list[Request] = []

    def ask() -> None:
        while sum(not each.finished for each in asked) < 6:
            asked.append(request(60, len(asked), max_new_tokens=20 + 7 * (len(asked) % 5)))
            busy.submit(asked[-1])

    ask()
    busy.step()
    waiting = request(200, 7, max_new_tokens=9)
    other.submit(waiting)
    for step in range(most):
        busy.step()
        ask()
        other._take_step()
        if waiting.group.results[0].usage.admitted is not None:
            finish(other, waiting)
            check(waiting, *[each for each in asked if each.finished])
            return step
    return None


def test_a_busy_engine_lets_another_in() -> None:
    """However many come to the first, the other starts once those that run have ended."""
    found = steps_until_let_in(200)
    assert found is not None
    assert found < 60


def test_without_claims_it_would_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Room, "claim", lambda *_: None)
    assert steps_until_let_in(200) is None


def test_two_that_both_grow_finish_one_after_the_other() -> None:
    model = Toy(512)
    one, other = engines(model, 5)
    first, second = request(60, 1, max_new_tokens=200), request(60, 2, max_new_tokens=200)
    one.submit(first)
    other.submit(second)
    for _ in range(3000):
        for engine in (one, other):
            if engine.has_work:
                engine.step()
    check(first, second)
    assert one.counters.parked + other.counters.parked > 0


def test_a_small_text_that_passes_takes_no_place_from_a_large_one() -> None:
    """What waits in an engine keeps its claim on room as another tenant's text starts there."""
    one, other = engines(Toy(512), 8)
    one.submit(request(100, 1, max_new_tokens=20))
    one.step()
    large = request(400, 2, max_new_tokens=9)
    one.submit(large)
    one._take_step()
    small = request(20, 3, max_new_tokens=1)
    small.tenant = "another"
    one.submit(small)
    one._take_step()
    assert (large.phase, small.finished) == (Phase.WAITING, True)
    late = request(190, 4, max_new_tokens=40)
    other.submit(late)
    other._take_step()
    assert late.phase is Phase.WAITING, "it takes what one waits for that came before"
    finish(one, large)
    finish(other, late)
    check(large, late)


def test_a_request_that_is_cancelled_waits_no_more() -> None:
    one, other, third = engines(Toy(512), 4, 3)
    running = request(100, 1, max_new_tokens=60)
    one.submit(running)
    one.step()
    waiting = request(150, 2, max_new_tokens=60)
    other.submit(waiting)
    other._take_step()
    assert waiting.group.live[0].slot is None
    late = request(50, 3, max_new_tokens=4)
    third.submit(late)
    third._take_step()
    assert late.group.live[0].slot is None, "those before it wait for the room"
    other.end([waiting])
    finish(third, late)
    check(late)
    while not running.finished:
        one.step()
    check(running)


@pytest.mark.parametrize("was_interrupted", [False, True])
def test_what_changes_another_engine_within_a_step_leaves_it_its_room(
    monkeypatch: pytest.MonkeyPatch, was_interrupted: bool
) -> None:
    """As where the stream of another engine's text is collected meanwhile, at once; also where
    Ctrl-C has ended that engine's last step."""
    one, other = engines(Toy(512), 4)
    finish(one, request(250, 1, max_new_tokens=1))
    left, expired = other.submit(request(60, 2, max_new_tokens=9)), Scheduler.expired
    if was_interrupted:
        with monkeypatch.context() as patch:
            patch.setattr(Scheduler, "expired", interrupting)
            with pytest.raises(KeyboardInterrupt):
                other.step()

    def leaving(scheduler: Scheduler, now: float) -> list[Request]:
        if scheduler is one.scheduler:
            other.end([left])
            assert left.finished
        return expired(scheduler, now)

    monkeypatch.setattr(Scheduler, "expired", leaving)
    last = request(250, 3, max_new_tokens=1)
    finish(one, last)
    check(last)
    assert left.finished


def interrupting(*of: object) -> list[Request]:
    raise KeyboardInterrupt


def test_an_idle_cache_makes_room_for_a_wider_one_of_its_own_engine() -> None:
    model, room = Toy(512), Room(3 * EACH)
    engine = Engine(model, slot_caches(model), ContextRule(64), max_slots=3, room=room)
    narrow = request(40, 1, max_new_tokens=9, num_return_sequences=2, do_sample=True)
    wide = request(40, 2, max_new_tokens=9, num_return_sequences=3, do_sample=True)
    finish(engine, narrow)
    finish(engine, wide)
    check(narrow, wide)


def test_ctrl_c_at_any_line_leaves_the_room_right() -> None:
    """Texts go on as they would, and nothing stays reserved that nobody holds."""

    def begun() -> tuple[list[Engine], list[Request]]:
        model = Toy(512)
        found = engines(model, 4)
        asked = [request(60, 1, max_new_tokens=70), request(70, 2, max_new_tokens=20)]
        asked.append(request(40, 3, max_new_tokens=9, num_return_sequences=2, do_sample=True))
        room = found[0].room
        caches = slot_caches(model)
        found.append(Engine(model, caches, ContextRule(64), max_slots=2, room=room))
        for engine, one in zip(found, asked, strict=True):
            engine.submit(one)
        return found, asked

    def run(found: list[Engine]) -> None:
        for _ in range(400):
            for engine in found:
                if engine.has_work:
                    engine.step()

    found, _ = begun()
    count = interrupted(lambda: run(found), None, "engine", "blocks")
    for at in some_of(count, 12, "room"):
        found, asked = begun()
        with pytest.raises(KeyboardInterrupt):
            interrupted(lambda: run(found), at, "engine", "blocks")  # noqa: B023
        run(found)
        check(*[one for one in asked if "half way" not in str(one.group.results[0].error)])
        for engine in found:
            engine.forget()
        assert found[0].room.budget.taken == 0
