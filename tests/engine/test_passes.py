"""What a pass computes: nobody who decodes waits long for somebody's prompt."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kept.engine import Request, Scheduler, StepTime, Work
from kept.engine.passes import FLUENT, SLOWDOWN
from kept.engine.step_time import attended_by

from .simulated import anything, plan, request, sequence_of, settle, step


def machine(rows: int, attended: int) -> float:
    return max(0.02, 0.001 * rows) + 1e-8 * attended


def learned() -> StepTime:
    model, random = StepTime(), Random(0)
    for _ in range(100):
        rows = random.choice([1, 4, 16, 64, 512])
        attended = rows * random.randint(1, 4000)
        model.observe(rows, attended, machine(rows, attended))
    return model


LEARNED = learned()  # only read


def running(scheduler: Scheduler, *requests: Request) -> Scheduler:
    for found in requests:
        scheduler.add(found)
    scheduler.admit(anything)
    return scheduler


@settings(max_examples=40)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 9), st.sampled_from("abc")),
                   min_size=1, max_size=9),
    chunk=st.integers(1, 60),
    slots=st.integers(1, 6),
    most=st.one_of(st.none(), st.integers(1, 20)),
)  # fmt: skip
def test_every_pass_moves_everyone_who_decodes(
    sizes: list[tuple[int, int, str]], chunk: int, slots: int, most: int | None
) -> None:
    scheduler = Scheduler(slots, chunk)
    for prompt, output, tenant in sizes:
        scheduler.add(request(tenant, prompt, output))
    read = 0
    while scheduler.has_work:
        scheduler.admit(anything)
        live: list[Any] = [s for found in scheduler.running for s in found.live]
        work = scheduler.next(live, [most] * len(live))
        assert [item.continuation for item in work] == [s for s in live if s in order(work)]
        assert {s for s in live if s.num_pending == 1} <= order(work).keys()
        assert all(1 <= item.num_new <= (most or chunk) for item in work)
        prompts = [item.num_new for item in work if item.is_prompt]
        assert sum(prompts) <= max(chunk - (len(work) - len(prompts)), 1) + (chunk < len(prompts))
        assert prompts or not any(s.num_pending > 1 for s in live)
        read += sum(prompts)
        settle(scheduler, work)
    assert read >= sum(prompt for prompt, _, _ in sizes if prompt > 1) - len(sizes) * 16


def order_of(work: list[Work]) -> list[tuple[str, int]]:
    return [(item.request.tenant, item.num_new) for item in work]


def order(work: Any) -> dict[Any, int]:
    return {item.continuation: item.num_new for item in work}


def test_without_a_cache_everything_is_computed_whole() -> None:
    scheduler = running(Scheduler(3, None), request("a", 700), request("b", 3), request("c", 1))
    assert [item.num_new for item in plan(scheduler)] == [700, 3, 1]


@given(past=st.integers(0, 20_000), decoding=st.integers(1, 20), given_time=st.booleans())
@settings(max_examples=30)
def test_a_pass_that_somebody_waits_for_keeps_its_time(
    past: int, decoding: int, given_time: bool
) -> None:
    scheduler = Scheduler(32, 512, step_time=LEARNED, max_step_time=0.1 if given_time else None)
    reads = request("long", 50_000)
    running(scheduler, *(request("", 1, 50, interactive=True) for _ in range(decoding)), reads)
    sequence_of(reads).num_computed = past
    [new] = [item.num_new for item in plan(scheduler) if item.request is reads]

    def seconds(rows: int) -> float:
        return LEARNED.predict(decoding + rows, decoding + attended_by(past, rows))

    within = 0.1 if given_time else max(SLOWDOWN * seconds(0), FLUENT)
    assert seconds(new) <= within < seconds(new + 1)
    assert machine(decoding + new, decoding + attended_by(past, new)) <= 1.3 * within


@given(reading=st.integers(1, 20), decoding=st.integers(1, 9), others=st.integers(0, 9))
@settings(max_examples=30)
def test_the_more_wait_for_a_first_token_the_more_is_read(
    reading: int, decoding: int, others: int
) -> None:
    """But who decodes is slowed by none of another tenant's prompts, nor by those nobody awaits."""
    scheduler = Scheduler(64, 4096, step_time=LEARNED)
    decodes = [request("a", 1, 50, interactive=True) for _ in range(decoding)]
    running(scheduler, *decodes, *(request("a", 5000, interactive=True) for _ in range(reading)))
    running(scheduler, *(request("b", 5000, interactive=True) for _ in range(others)))
    running(scheduler, *(request("a", 5000) for _ in range(others)))
    rows = sum(item.num_new for item in plan(scheduler))
    within = max(
        SLOWDOWN * max(reading / decoding, 1) * LEARNED.predict(decoding, decoding), FLUENT
    )
    assert LEARNED.predict(rows, rows) <= within
    assert machine(rows, rows) >= 0.7 * min(within, machine(4096, 4096))
    if others:
        running(scheduler, request("b", 1, 50, interactive=True))
        rows = sum(item.num_new for item in plan(scheduler))
        ratio = max(min(reading / decoding, others), 1)
        alone = SLOWDOWN * ratio * LEARNED.predict(decoding + 1, 99)
        assert LEARNED.predict(rows, rows) <= max(alone, FLUENT)


def test_what_nobody_notices_is_read_in_whole_chunks() -> None:
    """Also where every pass so far was of many rows: there is nothing to be learned first."""
    for speed, whole in ((20, True), (1, False)):
        step_time = StepTime()
        for _ in range(40):
            step_time.observe(512, attended_by(0, 512), machine(512, 512) / speed)
        scheduler = Scheduler(4, 512, step_time=step_time)
        running(scheduler, request("a", 1, 9, interactive=True), request("a", 5000))
        assert (sum(item.num_new for item in plan(scheduler)) == 512) is whole


def test_a_bound_that_is_past_already_lets_one_row_through() -> None:
    scheduler = Scheduler(32, 512, step_time=LEARNED, max_step_time=0.001)
    running(scheduler, request("a", 1, 9, interactive=True), request("b", 70), request("c", 70))
    assert [item.num_new for item in plan(scheduler)] == [1, 1]


def test_nobody_waits_so_prompts_are_read_by_chunks() -> None:
    for interactive, decodes in ((False, True), (True, False)):
        scheduler = Scheduler(4, 512, step_time=LEARNED)
        first = request("a", 1 if decodes else 2000, 9, interactive=interactive)
        running(scheduler, first, request("b", 3000))
        assert sum(item.num_new for item in plan(scheduler)) == 512


def test_the_first_to_come_reads_a_quarter_and_the_soonest_done_the_rest() -> None:
    scheduler = running(Scheduler(3, 100), request("a", 1000))
    step(scheduler)
    running(scheduler, request("b", 800), request("c", 30, 1))
    assert order_of(step(scheduler)) == [("a", 25), ("b", 45), ("c", 30)]
    assert order_of(step(scheduler)) == [("a", 25), ("b", 75)]


def test_one_beyond_its_share_reads_after_the_others() -> None:
    scheduler = running(Scheduler(4, 100), request("a", 5000), request("b", 90))
    step(scheduler)
    running(scheduler, request("b", 50))
    assert order_of(step(scheduler)) == [("a", 85), ("b", 15)]  # what was left of its first
    assert order_of(step(scheduler)) == [("a", 50), ("b", 50)]


def test_the_last_token_of_a_prompt_is_one_too() -> None:
    scheduler = running(Scheduler(2, 8), request("a", 9, 2), request("b", 1, 2))
    assert [(item.num_new, item.is_prompt) for item in step(scheduler)] == [(7, True), (1, True)]
    assert [(item.num_new, item.is_prompt) for item in step(scheduler)] == [(2, True), (1, False)]
    scheduler = running(Scheduler(2, 8), request("a", 9, 2))
    assert [(item.num_new, item.is_prompt) for item in step(scheduler)] == [(8, True)]
    assert [(item.num_new, item.is_prompt) for item in step(scheduler)] == [(1, True)]
    [a] = scheduler.running
    assert a.has_caught_up
    assert a.num_promised == 0


def test_drafted_tokens_are_no_prompt() -> None:
    scheduler = running(Scheduler(2, 8), request("a", 3, 40), request("b", 100))
    while not scheduler.running[0].has_caught_up:
        step(scheduler)
    drafts = sequence_of(scheduler.running[0])
    drafts.prompt += 5
    first, second = plan(scheduler)
    assert (first.num_new, first.is_prompt, second.num_new) == (6, False, 2)
    drafts.prompt += 500  # a window that has moved is read like a prompt
    assert sum(item.num_new for item in plan(scheduler)) == 8


@pytest.mark.parametrize("priority", [0, 1])
def test_a_higher_priority_reads_first(priority: int) -> None:
    early, late = request("a", 60), request("b", 60, priority=priority)
    scheduler = running(Scheduler(2, 40), early)
    running(scheduler, late)
    [first] = plan(scheduler)
    assert (first.request is late, first.num_new) == (priority == 1, 40)


@pytest.mark.parametrize("max_step_time", [None, 0.05])
def test_who_begins_to_draw_beside_whole_chunks_waits_for_none(max_step_time: float | None) -> None:
    """All passes that a new engine has seen are long, so nothing tells what a short one takes."""
    scheduler = Scheduler(4, 512, max_step_time=max_step_time)
    running(scheduler, request("a", 50_000))
    waits, took = request("b", 40, 60, interactive=True), []
    for number in range(80):
        if number == 3:
            running(scheduler, waits)
        work = plan(scheduler)
        rows = sum(item.num_new for item in work)
        attended = sum(attended_by(x.continuation.num_computed, x.num_new) for x in work)
        if waits.has_caught_up and not waits.finished:
            took.append(machine(rows, attended))
        settle(scheduler, work, machine(rows, attended))
    assert waits.finished
    assert len(took) == 59
    assert max(took) <= 1.2 * (max_step_time or max(SLOWDOWN * machine(1, 100), FLUENT))


def test_decoding_that_was_slow_once_does_not_lengthen_passes_for_ever() -> None:
    step_time = StepTime()
    for rows in (512, 8, 4, 1, 1):  # while the machine was busy with something else
        step_time.observe(rows, rows, 10 * machine(rows, rows))
    scheduler = Scheduler(4, 512, step_time=step_time)
    running(scheduler, request("b", 1, 300, interactive=True), request("a", 150_000))
    took = []
    for _ in range(300):
        work = plan(scheduler)
        rows = sum(item.num_new for item in work)
        attended = sum(attended_by(x.continuation.num_computed, x.num_new) for x in work)
        took.append(machine(rows, attended))
        settle(scheduler, work, took[-1])
    assert max(took[:32]) > 8 * machine(1, 300)
    assert max(took[150:]) <= 1.2 * max(SLOWDOWN * machine(1, 300), FLUENT)
