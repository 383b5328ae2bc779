"""Requests without a model: how many tokens they bring and draw, and a machine that counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kept.engine import Request, Scheduler, Work
from kept.engine.fairness import OUTPUT_COST, PROMPT_COST


class Sequence:
    """A prompt of so many tokens, and how many tokens are drawn behind it."""

    def __init__(self, prompt: int, output: int) -> None:
        self.prompt, self.output = prompt, output
        self.num_computed = self.num_drawn = 0

    @property
    def num_pending(self) -> int:
        return self.prompt + self.num_drawn - self.num_computed

    @property
    def cost_left(self) -> float:
        """What it can still cost, if nothing has to be computed again."""
        unread = max(self.prompt - self.num_computed, 0)
        return PROMPT_COST * unread + OUTPUT_COST * (self.output - self.num_drawn)


class Group:
    """One sequence that takes `width` slots."""

    def __init__(self, sequence: Sequence, width: int = 1) -> None:
        self.sequence, self.width = sequence, width

    @property
    def live(self) -> list[Sequence]:
        return [] if self.finished else [self.sequence]

    @property
    def finished(self) -> bool:
        return self.sequence.num_drawn == self.sequence.output


def request(tenant: str = "", prompt: int = 1, output: int = 1, **fields: Any) -> Request:
    """A simulated request. fields: of Request, and `width`."""
    group: Any = Group(Sequence(prompt, output), fields.pop("width", 1))
    return Request(group, tenant=tenant, arrival=fields.pop("arrival", 0.0), **fields)


def sequence_of(found: Request) -> Any:
    return found.group.sequence  # type: ignore[attr-defined]


def anything(_: Request) -> bool:
    return True


def plan(scheduler: Scheduler) -> list[Work]:
    live = [sequence for running in scheduler.running for sequence in running.live]
    return scheduler.next(live, [None] * len(live))


def settle(scheduler: Scheduler, work: list[Work], seconds: float = 0.01) -> list[Request]:
    """Compute a pass; who is done then."""
    scheduler.computed(work, seconds)
    for item in work:
        sequence: Any = item.continuation
        draws = item.num_new == sequence.num_pending
        sequence.num_computed += item.num_new
        sequence.num_drawn += draws
    return scheduler.retire()


def step(scheduler: Scheduler, can_start: Callable[[Request], bool] = anything) -> list[Work]:
    """One step of an engine that has room for whatever there are slots for."""
    scheduler.admit(can_start)
    work = plan(scheduler)
    settle(scheduler, work)
    return work
