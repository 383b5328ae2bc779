"""The one loop: schedule, forward, settle, until every sequence's computed tokens catch up."""

from __future__ import annotations

import time
from typing import Final

import torch

from kept.batch import Batch, pack
from kept.cache import Cache
from kept.engine.completion import Completion
from kept.engine.continuation import Continuation
from kept.engine.group import Group, Move
from kept.engine.passes import Work
from kept.engine.request import Request
from kept.engine.scheduler import Scheduler
from kept.engine.window import ContextRule
from kept.exiting import computing
from kept.models import CausalLM, NextLogits, RepeatedStep
from kept.ops import plain_torch
from kept.sampling import num_likeliest

PREFILL_CHUNK: Final = 512  # prompt tokens of a pass


class Engine:
    """Runs groups of sequences over one model and one cache.

    cache: None computes every token anew at every step. Not to be shared between threads.
    """

    def __init__(
        self,
        model: CausalLM,
        cache: Cache | None,
        rule: ContextRule,
        *,
        max_slots: int = 16,
        prefill_chunk: int = PREFILL_CHUNK,
    ) -> None:
        """max_slots: sequences side by side without a cache; with one, its number of slots."""
        self.model, self.cache, self.rule = model, cache, rule
        slots = max_slots if cache is None else cache.num_slots
        self.scheduler = Scheduler(slots, None if cache is None else prefill_chunk)
        self._slots: list[Continuation] = []  # who lives in which slot of the cache
        # Of those whose group is not ready yet: what a pass found, and their row of it.
        self._logits: dict[Continuation, tuple[NextLogits, int]] = {}
        # Where the last pass gave every sequence one token and moved none, the next is like it.
        self._last: tuple[list[Work], Batch] | None = None
        self._repeated: RepeatedStep | None = None

    def add(self, group: Group) -> None:
        """Queue a group. Raises OptionError for one that needs more slots than there are."""
        self.scheduler.add(Request(group))

    @property
    def has_work(self) -> bool:
        """Whether any group is unfinished."""
        return self.scheduler.has_work

    def step(self) -> None:
        """Compute one pass, draw the tokens it decides, and move the sequences on.

        Raises whatever the model raises; cache and sequences are then as they were. What goes wrong
        after the pass in one group's draws or texts ends that group, or the one text, as an "error"
        and no other.
        """
        with computing():
            self._step()

    # A function of its own: what it held is freed before the interpreter may end.
    @torch.inference_mode()
    def _step(self) -> None:
        with plain_torch(), self.model.running():
            start = time.perf_counter()
            work, found = self._repeat() or self._compute()
            self.scheduler.computed(work, time.perf_counter() - start)
            moves = self._settle(work, found)
            self._place(moves)
            self.scheduler.retire()

    def _compute(self) -> tuple[list[Work], NextLogits]:
        """Whatever is due."""
        self._admit()
        self._slide()
        work = self.scheduler.next(self._slots, self._most())
        batch = self._batch(work)
        found = self.model.next_logits(batch, self.cache, self._num_likeliest())
        is_decode = len(work) == len(self._slots) and all(item.num_new == 1 for item in work)
        self._last = (work, batch) if is_decode and self.cache is not None else None
        return work, found

    def _repeat(self) -> tuple[list[Work], NextLogits] | None:
        """What the last pass did, one token on, if that is all that is due."""
        (last, repeated), self._last, self._repeated = (self._last, self._repeated), None, None
        if last is None or self.cache is None or self.scheduler.num_waiting or self._must_slide():
            return None
        work, batch = last
        if repeated is None:
            repeated = self.model.repeat(batch, self.cache, self._num_likeliest())
        if repeated is None or not repeated.room:
            return None
        found = repeated.run([item.continuation.history.last for item in work])
        self._last, self._repeated = last, repeated
        return work, found

    def _most(self) -> list[int | None]:
        slots = range(len(self._slots))
        return [None if self.cache is None else self.cache.max_step(slot) for slot in slots]

    def _num_likeliest(self) -> int:
        groups = self._groups()
        return max((num_likeliest(group.params) for group in groups), default=0)

    def _groups(self) -> list[Group]:
        """Those that run."""
        return [request.group for request in self.scheduler.running]

    def interrupt(self, error: Exception | None = None) -> None:
        """End every group as it stands, for Ctrl-C or an error."""
        for request in self.scheduler.unfinished():
            if error is None:
                request.group.interrupt()
            else:
                request.group.fail(error)
            self.scheduler.cancel(request)
        self._last = self._repeated = None
        self._slots.clear()
        self._logits.clear()

    def completion(self, continuation: Continuation) -> Completion:
        """What a continuation has come to."""
        cache = self.cache
        return continuation.completion(0 if cache is None else cache.num_bytes // cache.num_slots)

    def _admit(self) -> None:
        for request in self.scheduler.admit(lambda request: True):
            for continuation in request.live:
                self._slots.append(continuation)
                self._cut(len(self._slots) - 1, continuation.num_computed)

    def _slide(self) -> None:
        for slot, continuation in enumerate(self._slots):
            if continuation.slide(self.rule):
                self._cut(slot, 0)

    def _must_slide(self) -> bool:
        return any(self.rule.next_offset(c.offset, len(c.history)) != c.offset for c in self._slots)

    def _cut(self, slot: int, length: int) -> None:
        if self.cache is not None:
            lengths = list(self.cache.lengths)
            lengths[slot] = length
            self.cache.truncate(lengths)

    def _batch(self, work: list[Work]) -> Batch:
        slot_of = {continuation: slot for slot, continuation in enumerate(self._slots)}
        tokens, past, totals, wanted, sources = [], [], [], [], []
        for item in work:
            c = item.continuation
            begin = c.offset + c.num_computed
            tokens.append(c.history.tokens[begin : begin + item.num_new].tolist())
            past.append(c.num_computed)
            totals.append(len(c.history) - c.offset)
            wanted.append(item.num_new == c.num_pending)
            sources.append(None if c.num_computed else c.source)
        return pack(
            tokens,
            past=past,
            totals=totals,
            slots=[slot_of[item.continuation] for item in work],
            last_of=wanted,
            sources=sources,
            device=self.model.device,
        )

    def _settle(self, work: list[Work], found: NextLogits) -> dict[Group, list[Move]]:
        row = 0
        for item in work:
            continuation = item.continuation
            if item.num_new == continuation.num_pending:
                self._logits[continuation] = found, row
                row += 1
            continuation.num_computed += item.num_new
        moves = {}
        for group in self._groups():
            if group.live and all(c in self._logits for c in group.live):
                rows = _together([self._logits.pop(c) for c in group.live])
                try:
                    moves[group] = group.settle(rows)
                except Exception as error:
                    group.fail(error)
                    moves[group] = []
        for continuation, (waiting, index) in self._logits.items():
            if waiting is found:  # the next pass may write where these lie
                self._logits[continuation] = waiting.row(index), 0
        return moves

    def _place(self, moves: dict[Group, list[Move]]) -> None:
        """Give every sequence that lives on a slot, and its slot the keys it goes on from."""
        moved = [move for found in moves.values() for move in found]
        stays = len(moved) == len(self._slots) and all(m.continuation is m.parent for m in moved)
        if self._last is not None and stays:
            return
        self._last = None
        slot_of = {continuation: slot for slot, continuation in enumerate(self._slots)}
        parent_of = {move.continuation: move.parent for move in moved}
        for group in self._groups():
            if group not in moves:
                parent_of |= {c: c for c in group.live}
        places: list[Continuation | None] = [c if c in parent_of else None for c in self._slots]
        places += [None] * (len(parent_of) - len(places))
        for continuation in parent_of:
            if continuation not in slot_of:
                places[places.index(None)] = continuation
        while None in places:
            last = places.pop()
            if last is not None:
                places[places.index(None)] = last
        self._slots = [c for c in places if c is not None]
        if self.cache is None:
            for continuation in self._slots:
                continuation.num_computed = 0
        else:
            sources = [slot_of[parent_of[c]] for c in self._slots]
            if sources != list(range(len(sources))):
                self.cache.reorder([*sources, *range(len(sources), self.cache.num_slots)])


def _together(rows: list[tuple[NextLogits, int]]) -> NextLogits:
    """The rows of a group, without a copy where they lie in order in one pass."""
    found, first = rows[0]
    if all(x is found for x, _ in rows):
        indices = [i for _, i in rows]
        if indices == list(range(first, first + len(rows))):
            return found.rows(first, first + len(rows))
        return found.take(indices)
    best = [x.best[i] for x, i in rows if x.best is not None]
    logits = torch.stack([x.logits[i] for x, i in rows])
    return NextLogits(logits, best if len(best) == len(rows) else None)
