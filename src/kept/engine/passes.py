"""What one forward pass computes: everyone's next token, and as much of prompts as it has time for.

There is no prefill phase and no decode phase: each sequence has tokens that are not computed yet,
one of them or a thousand, and a pass takes some from each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from kept.engine.continuation import Continuation
from kept.engine.fairness import Turn
from kept.engine.request import Request
from kept.engine.step_time import StepTime, attended_by

MAX_DRAFTED: Final = 16  # tokens that one may have pending and yet have read its prompt
SLOWDOWN: Final = 2.75  # what prompts may make of the time of a pass that decodes alone: 3, less
# what one prediction in a hundred misses by
FLUENT: Final = 0.1  # seconds; ten tokens a second are more than anybody reads


class Work(NamedTuple):
    """The next `num_new` tokens of a continuation.

    request: whose it is. is_prompt: whether they are read, other than drawn a step ago. drafts:
    the last of them, which nobody has drawn yet; source: who drafted them.
    """

    continuation: Continuation
    num_new: int
    request: Request
    is_prompt: bool
    drafts: tuple[int, ...] = ()
    source: str = ""

    @property
    def num_known(self) -> int:
        """How many of them are no drafts."""
        return self.num_new - len(self.drafts)


@dataclass(slots=True, eq=False)
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
    whose request is interactive, as far as `step_time` can tell; None: what nobody notices who
    reads along, or 3 times what the pass would take without prompts, and as much more as more wait
    for their first token than decode.
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
        turn: Callable[[Request], Turn],
        urgency: Callable[[Request], int],
    ) -> list[Work]:
        """The next pass over `live`, in their order.

        most: how many tokens each may bring in one pass; None: any number. owner: whose each is.
        turn: where a request's tenant stands among those that read.
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
            reads = self._cut(_in_turn(readers, turn), counts, owner)
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
        seconds, left = None, max(self.chunk - rows, 1)
        if any(owner[c].interactive for c in counts):
            without = self.step_time.predict(rows, attended)
            seconds = self.max_step_time
            if seconds is None:
                seconds = max(SLOWDOWN * _patience(readers, counts, owner) * without, FLUENT)
            past = readers[0].continuation.num_computed
            unseen = self.step_time.rows_within(FLUENT, rows, attended, past, left, least=1)
            if unseen < left and not self.step_time.knows_few(rows):
                left = 1  # to learn what those who decode would take without prompts
            else:
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


def _patience(
    readers: list[Reader], counts: dict[Continuation, int], owner: dict[Continuation, Request]
) -> float:
    """By how much more those who decode may be slowed, as more wait for a first token than they.

    Each wait is somebody's, for a first token or for the next, and a pass has a cost however little
    it reads: many small parts would have all wait longer. Only its own readers slow a tenant.
    """
    reading = Counter(x.request.tenant for x in readers if x.request.interactive)
    decoding = Counter(owner[c].tenant for c in counts if owner[c].interactive)
    return max(1.0, min(reading[tenant] / count for tenant, count in decoding.items()))


def _in_turn(readers: list[Reader], turn: Callable[[Request], Turn]) -> list[Reader]:
    """By priority; then those last that began beyond their tenant's share; then who would be read
    first if each tenant had its share and read one prompt after the other."""
    places: dict[Reader, tuple[int, bool, float]] = {}
    read_until: dict[tuple[int, str], float] = {}  # each tenant's counter behind those so far
    for reader in sorted(readers, key=lambda reader: (-reader.priority, reader.request.order)):
        request, key = reader.request, (reader.priority, reader.request.tenant)
        whose = turn(request)
        before = read_until.get(key, whose.read)
        began = before if request.reads_from is None else request.reads_from
        read_until[key] = before + reader.continuation.num_pending / whose.weight
        places[reader] = -reader.priority, began > whose.level, read_until[key]
    return sorted(places, key=lambda reader: (*places[reader], reader.request.order))
