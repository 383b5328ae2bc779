"""What one forward pass computes: everyone's next token, and as much of prompts as it has time for.

There is no prefill phase and no decode phase: each sequence has tokens that are not computed yet,
one of them or a thousand, and a pass takes some from each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from kept.engine.continuation import Continuation
from kept.engine.request import Request
from kept.engine.step_time import StepTime, attended_by

MAX_DRAFTED: Final = 16  # tokens that one may have pending and yet have read its prompt
SLOWDOWN: Final = 3.0  # what prompts may make of the time of a pass that decodes alone


class Work(NamedTuple):
    """The next `num_new` tokens of a continuation.

    request: whose it is. is_prompt: whether they are read, other than drawn a step ago.
    """

    continuation: Continuation
    num_new: int
    request: Request
    is_prompt: bool


@dataclass(slots=True)
class Reader:
    """A sequence with a prompt to read: at most `most` tokens of it in a pass."""

    continuation: Continuation
    request: Request
    most: int
    priority: int


class Passes:
    """Cuts prompts so that those who decode do not wait long.

    chunk: rows of a pass at most, beyond one for each sequence; None: nothing can be cut, and each
    pass takes whole sequences. max_step_time: seconds that a pass may take while somebody decodes
    whose request is interactive, as far as `step_time` can tell; None: 3 times what the pass would
    take without prompts.
    """

    def __init__(
        self, chunk: int | None, step_time: StepTime, max_step_time: float | None = None
    ) -> None:
        self.chunk, self.step_time, self.max_step_time = chunk, step_time, max_step_time

    def plan(
        self,
        live: Sequence[Continuation],
        most: Sequence[int | None],
        owner: dict[Continuation, Request],
        reading: Callable[[Request], float],
        urgency: Callable[[Request], int],
    ) -> list[Work]:
        """The next pass over `live`, in their order.

        most: how many tokens each may bring in one pass; None: any number. owner: whose each is.
        reading: the counter of a request's tenant among those that read, the lowest reads first
        within a priority.
        urgency: the priority with which a request reads.
        """
        counts: dict[Continuation, int] = {}
        readers: list[Reader] = []
        for continuation, limit in zip(live, most, strict=True):
            pending = continuation.num_pending
            if not pending:
                continue
            part = pending if limit is None else min(pending, limit)
            request = owner[continuation]
            if pending == 1 or (request.has_caught_up and pending <= MAX_DRAFTED):
                counts[continuation] = part
            else:
                readers.append(Reader(continuation, request, part, urgency(request)))
        if readers:
            readers.sort(key=lambda r: (-r.priority, reading(r.request), r.request.order))
            reads = self._cut(readers, counts, owner)
            counts |= reads
        else:
            reads = {}
        return [
            Work(c, counts[c], owner[c], c in reads or not owner[c].has_caught_up)
            for c in live
            if c in counts
        ]

    def _cut(
        self,
        readers: list[Reader],
        counts: dict[Continuation, int],
        owner: dict[Continuation, Request],
    ) -> dict[Continuation, int]:
        """How many tokens each reader reads, in their order, beside those that decode."""
        if self.chunk is None:
            return {reader.continuation: reader.most for reader in readers}
        rows = sum(counts.values())
        attended = sum(attended_by(c.num_computed, count) for c, count in counts.items())
        seconds = None
        if any(owner[c].interactive for c in counts):
            seconds = self.max_step_time or SLOWDOWN * self.step_time.predict(rows, attended)
        left = max(self.chunk - rows, 1)
        if seconds is not None:
            past = readers[0].continuation.num_computed
            left = self.step_time.rows_within(seconds, rows, attended, past, left, least=1)
        reads: dict[Continuation, int] = {}
        for reader, share in self._turns(readers, left):
            continuation = reader.continuation
            before = reads.get(continuation, 0)
            past = continuation.num_computed + before
            part = min(reader.most - before, share, left)
            if part and seconds is not None:
                least = 0 if reads else 1
                part = self.step_time.rows_within(seconds, rows, attended, past, part, least)
            if part:
                reads[continuation] = before + part
                rows, attended = rows + part, attended + attended_by(past, part)
                left -= part
        return reads

    def _turns(self, readers: list[Reader], left: int) -> list[tuple[Reader, int]]:
        """Who reads how much at most, one after the other.

        A quarter goes to the one that came first, whatever its tenant was served: however many come
        behind it, it is read to its end.
        """
        top = readers[0].priority
        oldest = min(
            (reader for reader in readers if reader.priority == top),
            key=lambda reader: reader.request.order,
        )
        return [(oldest, max(left // 4, 1)), *((reader, left) for reader in readers)]
