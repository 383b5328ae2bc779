"""What the next forward pass computes.

There is no prefill phase and no decode phase: each sequence has tokens that are not computed yet,
one of them or a thousand, and a pass takes some from each, short ones first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from kept.engine.continuation import Continuation
from kept.engine.group import Group


@dataclass(frozen=True, slots=True)
class Work:
    """The next `num_new` tokens of a continuation."""

    continuation: Continuation
    num_new: int


class Scheduler:
    """Admits groups while there are slots for them, and cuts prompts to a token budget.

    max_slots: sequences computed side by side. chunk: rows of a pass, beyond one per sequence, at
    most; without a cache nothing can be cut, and each pass takes whole sequences.
    """

    def __init__(self, max_slots: int, chunk: int | None) -> None:
        self.max_slots, self.chunk = max_slots, chunk
        self.waiting: deque[Group] = deque()
        self.running: list[Group] = []

    @property
    def has_work(self) -> bool:
        """Whether any group is unfinished."""
        return bool(self.waiting or self.running)

    def admit(self) -> list[Group]:
        """Move waiting groups in, first come first served, while their slots are free."""
        admitted = []
        used = sum(group.width for group in self.running)
        while self.waiting and used + self.waiting[0].width <= self.max_slots:
            group = self.waiting.popleft()
            used += group.width
            self.running.append(group)
            admitted.append(group)
        return admitted

    def next(self, live: list[Continuation], most: Sequence[int | None]) -> list[Work]:
        """The next pass over `live`, in their order: everyone's turn, within the budget.

        most: how many tokens each may bring to its cache in one pass; None: any number.
        """
        budget = self.chunk
        limits = dict(zip(live, most, strict=True))
        taken: dict[Continuation, int] = {}
        for continuation in sorted(live, key=lambda c: c.num_pending):
            pending = continuation.num_pending
            if not pending:
                continue
            part = pending if budget is None else min(pending, max(budget, 1))
            if budget is not None and budget <= 0 and pending > 1:
                continue
            limit = limits[continuation]
            part = part if limit is None else min(part, limit)
            taken[continuation] = part
            if budget is not None:
                budget -= part
        return [Work(c, taken[c]) for c in live if c in taken]

    def retire(self) -> None:
        """Forget groups that have finished."""
        self.running = [group for group in self.running if not group.finished]
