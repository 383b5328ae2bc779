"""Who starts, who is passed, who is held, who is parked, and who is given up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thinning import examples

from kept.engine import Hold, Phase, Request, Scheduler
from kept.engine.fairness import FairShare
from kept.engine.scheduler import LEAD, MAX_REFUSED
from kept.engine.waiting import Class

from .simulated import anything, plan, request, sequence_of, settle, step


def queued(scheduler: Scheduler, *requests: Request) -> Scheduler:
    for found in requests:
        scheduler.add(found)
    return scheduler


def test_one_that_does_not_fit_is_passed_for_a_while() -> None:
    scheduler = Scheduler(2, 512)
    wide = request("wide", 8, 4, width=2)
    queued(scheduler, request("a", 1, 10**6), wide, request("wide", 8, 4))
    passed = cost = 0
    while wide.phase is Phase.WAITING and cost < 10 * LEAD:
        scheduler.add(request("other", 50, 30))
        started = scheduler.admit(anything)
        assert not started or cost < 2 * LEAD  # at least half of it was served
        passed += sum(found.tenant == "other" for found in started)
        assert not any(found.tenant == "wide" and found is not wide for found in started)
        cost += 2 * sum(item.num_new for item in step(scheduler, lambda _: False))
        if cost > 3 * LEAD:
            assert [found.tenant for found in scheduler.running] == ["a"]
            scheduler.cancel(scheduler.running[0])
            assert scheduler.admit(anything) == [wide]
    assert passed > 10
    assert wide.phase is Phase.RUNNING


def test_few_are_tried_in_a_step() -> None:
    scheduler = queued(Scheduler(4, 512), *(request(str(i), 3, 3) for i in range(1000)))
    asked: list[Request] = []
    for _ in range(3):
        assert scheduler.admit(lambda found: bool(asked.append(found))) == []
    assert len(asked) == 3 * MAX_REFUSED
    assert asked[:MAX_REFUSED] == asked[-MAX_REFUSED:]
    assert scheduler.num_waiting == 1000


def test_a_long_queue_costs_a_step_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [0]
    standing: Callable[..., float] = FairShare.standing

    def counted(share: FairShare, tenant: str) -> float:
        looks[0] += 1
        return standing(share, tenant)

    scheduler = Scheduler(4, 64)
    for number in range(10_000):
        scheduler.add(request(f"tenant {number % 3000}", 20, 5))
    monkeypatch.setattr(FairShare, "standing", counted)
    for _ in range(200):
        step(scheduler)
    assert scheduler.num_waiting < 9_900
    assert looks[0] < 200 * 30


def test_those_held_start_when_the_prefix_is_there_and_block_nobody() -> None:
    scheduler = Scheduler(8, 10)
    leader = request("a", 100, 5)
    queued(scheduler, leader)
    step(scheduler)
    followers = [request("a", 100, 2), request("b", 100, 2)]
    other = request("a", 3, 2)
    queued(scheduler, *followers, other)

    def hold(found: Request) -> Hold | None:
        return None if found is other else Hold(leader, {"a": 60, "b": 90}[found.tenant])

    assert scheduler.admit(anything, hold) == [other]
    assert [found.phase for found in followers] == [Phase.HELD] * 2
    assert scheduler.num_waiting == 2
    started_at: dict[str, int] = {}
    while not leader.finished:
        for found in scheduler.admit(anything, hold):
            started_at[found.tenant] = sequence_of(leader).num_computed
        settle(scheduler, plan(scheduler))
    assert 60 <= started_at["a"] < 90 <= started_at["b"] <= 105


def test_whoever_others_are_held_for_reads_with_their_priority() -> None:
    """Else those of a priority between keep an urgent one waiting for as long as they come."""
    scheduler = Scheduler(8, 10)
    leader, urgent, gone = (request(prompt=100, priority=i) for i in (0, 2, 9))
    queued(scheduler, leader)
    step(scheduler)
    between = [request("other", 1000, priority=1) for _ in range(3)]
    queued(scheduler, urgent, gone, *between)
    holding = {urgent: Hold(leader, 50), gone: Hold(leader, 80)}
    assert scheduler.admit(anything, holding.get) == between
    assert next(x for x in plan(scheduler) if x.request is leader).num_new == 10
    scheduler.cancel(gone)
    while sequence_of(leader).num_computed < 50:
        assert [item.request for item in step(scheduler)] == [leader]
    assert scheduler.admit(anything) == [urgent]
    assert leader not in {item.request for item in step(scheduler)}  # they wait for it no more


@pytest.mark.parametrize("end", ["cancel", "park"])
def test_those_held_go_on_when_the_leader_ends(end: str) -> None:
    scheduler = Scheduler(8, 10)
    leader, kept, gone = (request(prompt=100) for _ in range(3))
    queued(scheduler, leader)
    step(scheduler)
    queued(scheduler, kept, gone)
    assert scheduler.admit(anything, lambda found: Hold(leader, 50)) == []
    scheduler.cancel(gone)
    assert scheduler.num_waiting == 1
    getattr(scheduler, end)(leader)
    assert scheduler.admit(anything, lambda found: None if found is leader else Hold(leader, 50))
    assert kept.phase is (Phase.RUNNING if end == "cancel" else Phase.HELD)
    assert gone.phase is Phase.OUTSIDE


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=20), st.integers(0, 10))
def test_deadlines(given: list[tuple[int, bool]], now: int) -> None:
    scheduler = Scheduler(3, 8)
    requests = [request(prompt=5, deadline=float(at)) for at, _ in given]
    queued(scheduler, *requests, request(prompt=5))
    step(scheduler)
    for found, (_, cancelled) in zip(requests, given, strict=True):
        if cancelled:
            scheduler.cancel(found)
    due = {r for r, (at, cancelled) in zip(requests, given, strict=True) if at <= now > 0 and
           not cancelled and not r.finished}  # fmt: skip
    found = scheduler.expired(float(now)) if now else []
    assert set(found) == due
    assert len(found) == len(due)
    assert not scheduler.expired(float(now)) or not now
    for late in found:
        scheduler.cancel(late)
        scheduler.cancel(late)
    while scheduler.has_work:
        step(scheduler)


def test_who_is_parked() -> None:
    scheduler = Scheduler(8, 64)
    first, second = request("a", 9, 50), request("a", 9, 50)
    queued(scheduler, first, second)
    for _ in range(5):
        step(scheduler)
    served_less, low = request("b", 9, 50), request("b", 9, 50, priority=-1)
    queued(scheduler, served_less, low)
    step(scheduler)
    high, waits = request("a", 9, 50, priority=1), request("c", 9)
    assert scheduler.victim(first) is low
    assert scheduler.victim(low) is None
    scheduler.cancel(low)
    assert scheduler.victim(first) is served_less
    assert scheduler.victim(served_less) is None
    queued(scheduler, high, waits)
    assert scheduler.victim(waits) is None
    assert scheduler.victim(high) is served_less
    assert scheduler.victim(served_less) is None


class Pool:
    """Tokens that fit in memory. What is parked is lost, and read again."""

    def __init__(self, scheduler: Scheduler, size: int) -> None:
        self.scheduler, self.size = scheduler, size
        self.granted: dict[Request, int] = {}
        self.num_parked = self.num_lost = 0

    @property
    def free(self) -> int:
        held = {r: sequence_of(r).num_computed for r in self.scheduler.running}
        held |= {r: max(n, held.get(r, 0)) for r, n in self.granted.items()}
        return self.size - sum(held.values())

    def can_start(self, found: Request) -> bool:
        needs = sequence_of(found).num_pending
        if needs + len(self.scheduler.running) > self.free:
            return False
        self.granted[found] = needs
        return True

    def make_room(self, item: Any) -> bool:
        """Whether there is room for one's work, once others were parked for it."""
        found = item.request
        while found.phase is Phase.RUNNING:
            now = sequence_of(found).num_computed + item.num_new
            if now - max(self.granted.get(found, 0), now - item.num_new) <= self.free:
                self.granted[found] = max(now, self.granted.get(found, 0))
                return True
            self.park(self.scheduler.victim(found) or found)
        return False

    def park(self, found: Request) -> None:
        self.scheduler.park(found)
        self.granted.pop(found, None)
        self.num_parked += 1
        self.num_lost += sequence_of(found).num_computed
        sequence_of(found).num_computed = 0

    def step(self) -> None:
        self.scheduler.admit(self.can_start)
        best = min(self.scheduler.running, key=lambda r: r.rank)
        work = [item for item in plan(self.scheduler) if self.make_room(item)]
        work = [item for item in work if item.request.phase is Phase.RUNNING]
        assert best.phase is Phase.RUNNING
        assert self.free >= 0
        for done in settle(self.scheduler, work):
            del self.granted[done]


@settings(max_examples=examples(5, 10))
@given(seed=st.integers(0, 10**6), size=st.integers(60, 200), slots=st.integers(2, 12))
def test_under_pressure_every_request_finishes(seed: int, size: int, slots: int) -> None:
    random = Random(seed)
    scheduler = Scheduler(slots, 32)
    pool = Pool(scheduler, size)
    requests: list[Request] = []
    for number in range(10_000):
        if number < 500 and random.random() < 0.2:
            prompt = random.randint(1, 40)
            fields = {"priority": random.choice([0, 0, 0, 1]), "arrival": float(number)}
            requests.append(
                request(random.choice("abc"), prompt, random.randint(1, size - 41), **fields)
            )
            scheduler.add(requests[-1])
        if scheduler.has_work:
            pool.step()
        elif number >= 500:
            break
    assert all(found.finished for found in requests)
    computed = sum(sequence_of(r).prompt + sequence_of(r).output for r in requests)
    assert pool.num_parked < 6 * len(requests)
    assert pool.num_lost < 3 * computed


@settings(max_examples=examples(15, 30))
@given(st.randoms(use_true_random=False))
def test_whatever_is_done_to_it_nothing_is_left(random: Random) -> None:
    scheduler = Scheduler(3, 16)
    known: list[Request] = []
    for _ in range(120):
        act = random.random()
        running = scheduler.running
        if act < 0.4:
            fields = {"priority": random.randint(0, 1), "width": random.randint(1, 3)}
            known.append(request(random.choice("abcd"), random.randint(1, 40), 3, **fields))
            scheduler.add(known[-1])
        elif act < 0.5 and known:
            scheduler.cancel(random.choice(known))
        elif act < 0.6 and running:
            parked = random.choice(running)
            scheduler.park(parked)
            sequence_of(parked).num_computed = random.randint(0, sequence_of(parked).num_computed)
        elif act < 0.7 and running:
            leader = running[0]
            scheduler.admit(anything, lambda found: Hold(leader, 30))  # noqa: B023
        else:
            step(scheduler, lambda _: random.random() < 0.8)
        assert sum(found.width for found in scheduler.running) <= 3
        phases = Counter(found.phase for found in known)
        assert len(scheduler.running) == phases[Phase.RUNNING]
        assert scheduler.num_waiting == phases[Phase.WAITING] + phases[Phase.HELD]
    while scheduler.has_work:
        step(scheduler)
    assert all(found.phase is Phase.OUTSIDE for found in known)
    assert all(found.num_promised == 0 for found in known)
    assert not scheduler._waiting._classes
    assert not scheduler._holds._followers or not scheduler._holds.take_free()


def test_another_thread_may_look_for_work_at_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that comes in between two lines may add a priority, or take one away."""
    scheduler = queued(Scheduler(3, 16), request(priority=1), request(priority=2))
    length: Callable[[Class], int] = Class.__len__

    def between(waiting: Class) -> int:
        monkeypatch.undo()
        scheduler.add(request(priority=3))
        return length(waiting)

    monkeypatch.setattr(Class, "__len__", between)
    assert scheduler.num_waiting == 2
    assert scheduler.num_waiting == 3
