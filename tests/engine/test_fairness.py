"""Shares of tenants: the bound of virtual token counters, and that nobody waits for ever."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thinning import examples

from kept import OptionError
from kept.engine import Phase, Request, Scheduler
from kept.engine.fairness import MAX_IDLE, OUTPUT_COST, PROMPT_COST, FairShare

from .simulated import anything, plan, request, sequence_of, settle, step

SIZES = st.tuples(st.integers(1, 60), st.integers(1, 25))


class Served:
    """What each tenant was served, and the most that those that ran could still cost."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.cost: Counter[str] = Counter()
        self.bound = 0.0

    def step(self) -> None:
        self.scheduler.admit(lambda _: True)
        running = [sequence_of(found) for found in self.scheduler.running]
        self.bound = max(self.bound, sum(sequence.cost_left for sequence in running))
        work = plan(self.scheduler)
        for item in work:
            draws = item.num_new == item.continuation.num_pending
            read = item.num_new if item.is_prompt else 0
            self.cost[item.request.tenant] += PROMPT_COST * read + OUTPUT_COST * draws
        settle(self.scheduler, work)


@settings(max_examples=examples(15, 40))
@given(
    f=st.lists(SIZES, min_size=1, max_size=4),
    g=st.lists(SIZES, min_size=1, max_size=4),
    weight=st.sampled_from([1.0, 3.0]),
    slots=st.integers(1, 5),
    chunk=st.integers(1, 40),
    others=st.randoms(use_true_random=False),
)
def test_two_that_always_wait_are_served_alike(
    f: list[tuple[int, int]],
    g: list[tuple[int, int]],
    weight: float,
    slots: int,
    chunk: int,
    others: Random,
) -> None:
    scheduler = Scheduler(slots, chunk, weights={"f": weight})
    served, sent = Served(scheduler), dict[str, list[Request]](f=[], g=[])
    lead: list[float] = []
    for _ in range(250):
        for tenant, sizes in (("f", f), ("g", g)):
            own = sent[tenant]
            for _ in range(slots + 1 - sum(found.phase is Phase.WAITING for found in own)):
                own.append(request(tenant, *sizes[len(own) % len(sizes)]))
                scheduler.add(own[-1])
        if others.random() < 0.2:
            scheduler.add(request(others.choice("xyz"), others.randint(1, 60), 5))
        served.step()
        lead.append(served.cost["f"] / weight - served.cost["g"])
    assert max(lead) - min(lead) <= served.bound * (1 + 1 / weight)


def test_a_flood_takes_no_more_than_its_share() -> None:
    scheduler = Scheduler(2, 16)
    for _ in range(500):
        scheduler.add(request("flood", 8, 4))
    for _ in range(20):
        step(scheduler)
    late = [request("late", 8, 4) for _ in range(10)]
    for found in late:
        scheduler.add(found)
    served = Served(scheduler)
    while any(not found.finished for found in late):
        served.step()
    assert served.cost["flood"] <= served.cost["late"] + 2 * served.bound


def passes_until(scheduler: Scheduler, found: Request) -> int:
    """How many passes it takes until its prompt is read."""
    passes = 0
    while not found.has_caught_up:
        step(scheduler)
        passes += 1
    return passes


def test_a_short_prompt_is_read_beside_long_ones_that_came_first() -> None:
    scheduler = Scheduler(16, 64)
    flood = [request("flood", 2000, 4) for _ in range(8)]
    for found in flood:
        scheduler.add(found)
    step(scheduler)
    waited = []
    for _ in range(40):
        late = request("late", 60, 3)
        scheduler.add(late)
        waited.append(passes_until(scheduler, late))
        while not late.finished:
            step(scheduler)
    assert any(not found.has_caught_up for found in flood)
    assert max(waited) <= 3  # one more where a long one has nearly been read


def test_who_has_drawn_meanwhile_saves_no_reading_up() -> None:
    scheduler = Scheduler(16, 64)
    scheduler.add(request("drawing", 10, 1000))
    busy = request("busy", 20_000, 1)
    scheduler.add(busy)
    for _ in range(100):
        step(scheduler)
    late = [request("drawing", 2000, 1) for _ in range(10)]
    for found in late:
        scheduler.add(found)
    before = sequence_of(busy).num_computed
    for _ in range(400):
        step(scheduler)
        read = sum(sequence_of(found).num_computed for found in late)
        assert read - (sequence_of(busy).num_computed - before) <= 2000


def test_one_that_stayed_away_saves_nothing_up() -> None:
    scheduler = Scheduler(1, 16)
    scheduler.add(request("away", 4, 2))
    for _ in range(200):
        scheduler.add(request("busy", 4, 2))
    for _ in range(300):
        step(scheduler)
    for _ in range(50):
        scheduler.add(request("away", 4, 2))
    served = Served(scheduler)
    for _ in range(80):
        served.step()
    assert served.cost["busy"] >= served.cost["away"] - 2 * served.bound


def test_new_tenants_without_end_keep_nobody_waiting() -> None:
    scheduler = Scheduler(2, 64)
    old = [request("old", 1000, 2), request("old", 10, 2)]
    for found in old:
        scheduler.add(found)
    cost = 0.0
    for number in range(1500):
        scheduler.add(request(f"new {number}", 10, 2))
        scheduler.add(request(f"newer {number}", 10, 2))
        cost += sum(item.num_new for item in step(scheduler))
        if all(found.finished for found in old):
            break
    # The second is a thousand ahead of all who come new, in two slots.
    assert all(found.finished for found in old)
    assert cost < 2 * 1000 * PROMPT_COST * 4


def test_what_was_served_outlives_a_step_that_was_interrupted() -> None:
    scheduler = Scheduler(2, 8)
    known = [request("busy", 40, 30)]
    scheduler.add(known[0])
    for _ in range(30):
        step(scheduler)
    known += [request(tenant, 3, 2) for tenant in ("new", "busy", "new", "busy")]
    for found in known[1:]:
        scheduler.add(found)
    step(scheduler)
    before = {found.tenant: scheduler.turn(found).read for found in known}
    assert before["busy"] != before["new"]
    scheduler.restart(found for found in known if not found.finished)
    assert scheduler.num_waiting == 5
    assert {found.tenant: scheduler.turn(found).read for found in known} == before
    assert [found.tenant for found in scheduler.admit(anything)] == ["new", "new"]
    while scheduler.has_work:
        step(scheduler)


def test_a_long_prompt_among_short_ones_starts_in_its_turn() -> None:
    scheduler = Scheduler(2, 32)
    for _ in range(10):
        scheduler.add(request("a", 5, 3))
    long = request("a", 3000, 1)
    scheduler.add(long)
    rows = 0
    while not long.finished:
        scheduler.add(request("a", 5, 3))
        rows += sum(item.num_new for item in step(scheduler))
    assert rows <= 4 * 3000 + 10 * 8 + 64  # it reads at least a quarter of every pass


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), max_size=30))
def test_a_higher_priority_goes_first(sent: list[tuple[str, int]]) -> None:
    scheduler = Scheduler(1, 8)
    requests = [request(tenant, 3, 2, priority=priority) for tenant, priority in sent]
    for found in requests:
        scheduler.add(found)
    started: list[Request] = []
    while scheduler.has_work:
        started += scheduler.admit(lambda _: True)
        step(scheduler)
    assert [r.priority for r in started] == sorted((r.priority for r in requests), reverse=True)
    for tenant in "abc":
        for priority in range(3):
            own = [r for r in requests if (r.tenant, r.priority) == (tenant, priority)]
            assert [r for r in started if r in own] == own


def test_tenants_are_forgotten() -> None:
    share = FairShare(4)
    for number in range(3 * MAX_IDLE):
        tenant = str(number)
        share.enter(tenant)
        share.lift(tenant, None, 0.0)
        share.serve(tenant, 1.0 + number)
        share.leave(tenant)
        assert len(share) <= MAX_IDLE + 1
    share.enter(str(3 * MAX_IDLE - 1))  # which is ahead by most
    assert share.standing(str(3 * MAX_IDLE - 1)) == 3 * MAX_IDLE


@pytest.mark.parametrize("weight", [0, -1.0, float("inf"), float("nan"), "2", None])
def test_a_weight_that_is_none(weight: Any) -> None:
    with pytest.raises(OptionError, match="tenant 'f' has weight"):
        Scheduler(1, 8, weights={"f": weight})
