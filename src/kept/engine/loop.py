"""The one loop: hear, admit, forward, draw, settle, for as long as anybody wants tokens."""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from traceback import clear_frames

from kept.blocks import BLOCK
from kept.cache import Cache
from kept.engine import journal
from kept.engine.counters import Counters
from kept.engine.draft_keys import DraftKeys, share_of
from kept.engine.draft_model import DraftModel
from kept.engine.draft_worth import DraftWorth
from kept.engine.drafting import Drafting
from kept.engine.encoding import Encoding
from kept.engine.forward import Forward
from kept.engine.group import Move
from kept.engine.inputs import Inputs
from kept.engine.model_drafts import ModelDrafts
from kept.engine.passes import Work
from kept.engine.planning import Planning
from kept.engine.recent import Recent
from kept.engine.request import Event, Phase, Request
from kept.engine.room import Helper, Room
from kept.engine.scheduler import Scheduler
from kept.engine.seating import seat
from kept.engine.settling import Settling
from kept.engine.slot_caches import SlotCaches
from kept.engine.window import ContextRule
from kept.errors import CacheFullError
from kept.models import CausalLM, NextLogits
from kept.store import PrefixStore


class Loop(Planning):
    """The side of an `Engine` that takes its steps."""

    def __init__(
        self,
        model: CausalLM,
        cache: Cache | SlotCaches | None,
        rule: ContextRule,
        scheduler: Scheduler,
        room: Room,
        inputs: Inputs,
        store: PrefixStore | None,
        draft: DraftModel | None,
    ) -> None:
        self.model, self.rule, self.room = model, rule, room
        self.counters, self._recent = Counters(), Recent()
        self.scheduler = scheduler
        self._residents = seat(
            model,
            cache,
            rule,
            scheduler.max_slots,
            scheduler.passes.chunk,
            self.counters,
            room,
            self,
            self.scheduler.step_time,
            store,
        )
        codec = None if cache is None else cache.codec
        self._encoding = Encoding(model, inputs, codec, self._residents, room, self, self.counters)
        self._forward = Forward(model, self._residents, self._use_torch)
        self._settling = Settling(self.counters, self._use_torch)
        self._worth = DraftWorth(self.scheduler.step_time)
        self._drafting = Drafting(model, rule, self._residents, self._worth, cache is not None)
        if draft is not None and cache is not None and self._drafting.why_not is None:
            share = share_of(draft.model, model, cache.codec)
            keys = DraftKeys(draft.model, scheduler.max_slots, room, share)
            vocab, use_torch = model.config.vocab_size, self._use_torch
            self._drafting.by_model = ModelDrafts(draft, keys, vocab, self._worth, use_torch)
        # And whether each is to end, and with what error.
        self._inbox: deque[tuple[Request, bool, Exception | None]] = deque()
        self._open: dict[Request, None] = {}  # those heard of and not finished
        self._events = []
        # As nothing runs here: to let go of room, or to bring what is read from a store.
        self._waits_for: Helper | None = None
        room.join(self)

    # A function of its own: what it held is freed before the interpreter may end.
    def _step(self) -> list[Event]:
        started = time.perf_counter()
        self._drafting.begin_step()
        self._hear()
        self._admit()
        num_repeated = self.counters.repeated_steps
        work, found = self._pass()
        num_drawn = 0
        if found is not None:
            self._charge(work, time.perf_counter() - started - self._drafting.spent)
            num_drawn = self._settle(work, found)
        events = self._tell()
        self.counters.steps += 1
        took = time.perf_counter() - started
        self.counters.step_seconds += took
        again = self.counters.repeated_steps > num_repeated
        if found is not None:
            of = self.counters.steps, len(self.scheduler.running)
            self._recent.stepped(*of, took, work, num_drawn, is_repeated=again)
        if num_drawn and self._is_decode and self._drafting.is_asked:
            accepted = self._settling.accepted
            self._drafting.took(work, took, num_drawn, accepted, again=again)
        self.room.errands.see_to()
        return events

    def _charge(self, work: list[Work], seconds: float) -> None:
        # Of passes that are all alike, one in eight tells how long they take, and the first.
        reads, known = not self._forward.is_prepared, self.scheduler.step_time.knows_few(len(work))
        tells = reads or not known or not self.counters.steps % 8
        self.scheduler.computed(work, seconds if tells else None)
        if reads and journal.listens():
            journal.passed(work, seconds, self.scheduler.num_waiting, self._residents.blocks())

    def _tell(self) -> list[Event]:
        """Hand out what has happened since the last step."""
        self._call_back()
        events, self._events, self._num_told = self._events, [], 0
        return events

    def _hear(self) -> None:
        """Take in what came from other threads; what has waited too long ends."""
        while self._inbox:
            request, is_to_end, error = self._inbox[0]
            if is_to_end:
                self._end(request, error)
            elif request.phase is Phase.OUTSIDE and not request.finished:
                self._open[request] = None
                self.scheduler.add(request)
            self._inbox.popleft()  # at last: an exception before has it heard again
        for request in self.scheduler.expired(time.monotonic()):
            self._end(request, TimeoutError("the deadline of the request has passed"))

    def _admit(self) -> None:
        """Let requests in that wait, as far as there is room."""
        self._waits_for = None
        if self.scheduler.is_full:
            return
        if not self.scheduler.num_waiting:
            return
        self._use_torch()
        running = self.scheduler.running
        self._residents.expect(self.scheduler.num_waiting)
        now = time.perf_counter()
        for request in self.scheduler.admit(
            lambda request: self._encoding.start(request, running),
            lambda request: self._residents.hold(request, running),
        ):
            for continuation in request.live:
                continuation.usage.admitted = continuation.usage.admitted or now
            self._drafting.begin(request)
            self._forward.forget()
        while self._residents.failed:
            request, error = self._residents.failed.popitem()
            request.pass_error = error
            self._end(request, error)
        if not self.scheduler.running:
            self._waits_for = self._residents.awaited or self.room.who_goes_first(self)
            if self._waits_for is None:
                self._refuse()

    def _refuse(self) -> None:
        """End the first that waits although nobody is left to wait for."""
        first = next((x for x in self._open if x.phase is Phase.WAITING), None)
        if first is not None:
            why = "somebody outside of the engine holds the blocks that it needs; let them go"
            self._end(first, CacheFullError(f"there is no room for a request: {why}"))

    def _pass(self) -> tuple[list[Work], NextLogits | None]:
        """Compute what is due; what fails ends here."""
        work: list[Work] = []
        try:
            running = self.scheduler.running
            request = self._encoding.next(running) if self._encoding.is_needed else None
            if request is not None:
                self._use_torch()
                work = [Work(request.live[0], 0, request, True)]
                self._forward.forget()
                self._encoding.read(request)
                return [], None
            if self._forward.is_prepared and not (self.rule.slides and self._must_slide()):
                drafted = self._drafting.drafted(self._forward.prepared)
                if drafted is not None:
                    work = drafted
                    return work, self._compute(work)
                work, again = self._forward.repeat()
                self.counters.repeated_steps += 1
                return work, again
            work = self._plan()
            return work, self._compute(work) if work else None
        except Exception as error:
            clear_frames(error.__traceback__)  # which would hold blocks for as long as the error
            self._forward.forget()
            self._fail(work, error)
            return [], None

    def _fail(self, work: list[Work], error: Exception) -> None:
        """End the requests of a pass that has failed."""
        failed = list(dict.fromkeys(item.request for item in work)) or list(self.scheduler.running)
        if isinstance(error, CacheFullError | MemoryError):
            failed = [max(failed, key=lambda request: request.rank)]
        for request in failed:
            request.pass_error = error
            self._end(request, error)

    def _settle(self, work: list[Work], found: NextLogits) -> int:
        """Draw, have the groups take what was drawn, and give slots the keys they go on from; how
        many tokens were drawn."""
        self._settling.note(work, found)
        self._drafting.read(work)
        read: dict[Request, None] = {}
        for item in work:
            self.counters.computed_tokens += item.num_new
            if item.is_prompt:
                read[item.request] = None
            elif not item.drafts and not item.continuation.num_computed % BLOCK:
                self._residents.filled(item.request)
        for request in read:
            self._residents.computed(request)
        events = self._settling.settle(self.scheduler.running, work, found)
        self._events += events
        self._take_back([item for item in work if item.drafts])
        if self._residents.cache is None:
            for request in self.scheduler.running:
                for continuation in request.group.live:
                    continuation.num_computed = 0
        if self._settling.changed:
            self._move(self._settling.changed)
        return len(events)

    def _take_back(self, drafted: list[Work]) -> None:
        """Have slots keep the keys of those drafts alone that were drawn."""
        if not drafted:
            return
        self._residents.cut_all([item.continuation for item in drafted])
        for item in drafted:
            now = item.continuation.num_computed
            before = now - self._settling.accepted.get(item.continuation, 0) - item.num_known
            if now // BLOCK > before // BLOCK and item.request.live:
                self._residents.filled(item.request)

    def _move(self, changed: list[tuple[Request, list[Move]]]) -> None:
        """Give slots the keys that sequences go on from, and take those of ended texts away."""
        self._forward.forget()
        if any(m.continuation is not m.parent for _, moves in changed for m in moves):
            self._use_torch()
        self._residents.move([move for _, moves in changed for move in moves])
        self._settling.changed = []
        for request, _ in changed:
            gone = [c for c in request.group.members if c not in request.group.live]
            self._residents.leave(request, gone)
        for request in self.scheduler.retire():
            self._count(request)

    def _end(self, request: Request, error: Exception | None = None) -> None:
        """End an unfinished request as it stands."""
        if request.finished:
            return
        self._use_torch()
        self._forward.forget()
        self._settling.forget(request.group.members)
        self._residents.leave(request, request.group.members)
        if error is None:
            request.group.interrupt()
        else:
            request.group.fail(error)
        self.scheduler.cancel(request)
        self._count(request)

    def _count(self, request: Request) -> None:
        """Note that a request has finished."""
        self._open.pop(request, None)
        self._drafting.end(request)
        self._encoding.leave(request)
        self._events.append(Event(request, None))
        reason = request.group.results[0].finish_reason
        self.counters.requests[reason or "interrupted"] += 1
        self._recent.over(request)
        journal.ended(request)

    def _mend(self) -> None:
        """After an exception in the middle of a change: begin anew with what requests there are.

        What they have drawn stays, and keys that can be found again are not computed again. Whose
        tokens were being taken cannot go on: how much of that was done is not known.
        """
        self._forward.forget()
        self._settling.forget()
        taking, self._settling.taking = self._settling.taking, None
        moved = [request for request, _ in self._settling.changed]
        self._settling.changed = []
        for request in moved if taking is None else [*moved, taking]:
            for continuation in request.group.members:
                continuation.num_computed = 0  # its slot may hold another's keys
        if taking is not None and not taking.finished:
            if (taking, True, None) in list(self._inbox):  # who waits for it ends it with Ctrl-C
                with suppress(Exception):
                    taking.group.interrupt()
            why = "the step that took its tokens was interrupted half way"
            taking.group.fail(RuntimeError(why))
        self._residents.restart(self._open)
        self._encoding.restart()
        for request in [request for request in self._open if request.finished]:
            self._count(request)
        self._drafting.restart()
        self.scheduler.restart(self._open)
