"""Requests of any number of callers, run together over one model and one cache."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Final, TypeVar

from kept.blocks import KnownText
from kept.cache import Cache
from kept.engine.continuation import Continuation
from kept.engine.counters import Snapshot
from kept.engine.draft_model import DraftModel
from kept.engine.driving import Driving
from kept.engine.forks import watch
from kept.engine.inputs import Inputs
from kept.engine.loop import Loop
from kept.engine.recent import note_of
from kept.engine.request import Event, Phase, Request
from kept.engine.room import Room
from kept.engine.scheduler import Scheduler
from kept.engine.slot_caches import Held, SlotCaches
from kept.engine.view import BlockState, EngineView, MemoryUse
from kept.engine.window import ContextRule
from kept.errors import OptionError
from kept.exiting import computing
from kept.models import CausalLM
from kept.store import PrefixStore
from kept.turns import lets_go

Found = TypeVar("Found")

PREFILL_CHUNK: Final = 512  # prompt tokens of a pass
MOST_WAITING: Final = 64  # requests of a queue that a view names


class Engine(Loop):
    """Runs requests over one model and one cache, for as long as there are any.

    cache: `SlotCaches` are made and dropped as requests come and go; None computes every token anew
    at every step. Threads may share an engine: `submit` and `cancel` wait for nobody, and one
    thread steps at a time. Those that wait for requests of theirs take the steps by `advance`.
    """

    def __init__(
        self,
        model: CausalLM,
        cache: Cache | SlotCaches | None,
        rule: ContextRule,
        *,
        max_slots: int = 16,
        prefill_chunk: int = PREFILL_CHUNK,
        max_step_time: float | None = None,
        weights: Mapping[str, float] | None = None,
        room: Room | None = None,
        inputs: Inputs | None = None,
        store: PrefixStore | None = None,
        draft: DraftModel | None = None,
    ) -> None:
        """max_slots: sequences side by side; of a cache that is given, its number of slots.

        max_step_time: seconds that a step with prompts to read may take while somebody reads along
        (`Request.interactive`); None: mostly three times what it would take without them, see
        `Passes`. weights: shares of tenants; 1 for those left out. room: what keys and values come
        out of, where engines share one. inputs: of that room, what an encoder has read before.
        store: where prefixes of this model outlive the process. draft: what their texts may be
        drafted by (`num_assistant_tokens`).

        Raises OptionError for a weight or a time that is not a finite number above 0.
        """
        slots = cache.num_slots if isinstance(cache, Cache) else max_slots
        chunk = None if cache is None else prefill_chunk
        room = room or Room()
        self._own_inputs: Inputs | None = None
        if inputs is None:
            inputs = self._own_inputs = Inputs(room)
        if max_step_time is not None and not 0 < max_step_time < math.inf:
            raise OptionError(
                f"max_step_time={max_step_time}, and it is a finite number of seconds above 0; "
                "leave it out for three times a step without prompts"
            )
        scheduler = Scheduler(slots, chunk, max_step_time=max_step_time, weights=weights)
        super().__init__(model, cache, rule, scheduler, room, inputs, store, draft)
        self._driving = Driving(model, self._take_step)
        watch(self)

    def submit(self, request: Request) -> Request:
        """Have a request run from the next step on; returns it. Any thread may, at any time. In a
        forked child those of threads that it does not have end as they stand.

        Raises OptionError for one that has ended or needs more slots than there are, CacheFullError
        for one whose keys and values the cache could not hold even alone.
        """
        self.check(request)
        request.live[0].usage.arrived = time.perf_counter()
        request.asked_by = threading.get_ident()
        self._inbox.append((request, False, None))
        return request

    def check(self, request: Request) -> None:
        """Raise what `submit` would raise of a request."""
        if request.finished:
            raise OptionError("this request has ended; make another one of a new group")
        if request.adapter is not None and request.adapter not in self.model.adapters:
            raise OptionError(
                f"the adapter {request.adapter.name!r} is not of this engine's model; take one of "
                "its `adapters`"
            )
        self.scheduler.check(request)
        self._residents.check(request, self._encoding.num_bytes(request))

    def cancel(self, request: Request) -> None:
        """Have a request end as it stands with the next step. Any thread may, at any time; without
        effect on one that is finished."""
        self._inbox.append((request, True, None))

    def only_thread(self, thread: int) -> None:
        """Have the requests of all threads but one end as they stand with the next step, and tell
        nobody: they have been left behind by a fork."""
        for request in [*self._open, *(asked for asked, *_ in self._inbox)]:
            if request.asked_by not in (None, thread):
                request.on_event = None
                self.cancel(request)

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self._inbox or self._open)

    @lets_go
    def step(self) -> list[Event]:
        """Compute one pass, draw the tokens it decides, and move the sequences on.

        Returns what texts have come to. An Exception of the pass ends the requests in it as
        "error"; where memory or cache have no room for it, the least deserving of them. What goes
        wrong after the pass in one group's draws or texts ends that group, or the one text. No
        other request notices. Raises what is no Exception, as Ctrl-C is; the next step then goes on
        with what there is.
        """
        events = self._take_step()
        self._wait_for_room()
        return events

    def advance(self, is_done: Callable[[], bool]) -> None:
        """Return once a step has been taken or `is_done`: by this thread, or by another while this
        one sleeps. Raises what `step` does, in the thread that takes it alone."""
        if self._driving.advance(is_done):
            self._wait_for_room()

    def _take_step(self) -> list[Event]:
        with computing():
            return self._change(self._step)

    def _wait_for_room(self) -> None:
        """Have the other go on that it waits for. No part of a step: who waits for that would wait
        for the other's, and those who wait there perhaps for this engine's."""
        other, self._waits_for = self._waits_for, None
        if other is not None:
            self.room.have_go_on(other)

    @lets_go
    def end(self, requests: Iterable[Request], error: Exception | None = None) -> None:
        """End requests as they stand: now, or with the next step where one is being taken, as for
        Ctrl-C in one thread while another computes, or where garbage is collected in a step.

        Waits for no step; what a text has come to can be read at once. error: what they end with;
        None: "interrupted".
        """
        for request in requests:
            self._inbox.append((request, True, error))
        if not (self._is_changing_here or self.model.is_running_elsewhere):
            self._change(self._hear)

    @lets_go
    def snapshot(self) -> Snapshot:
        """What the engine has done and holds. Any thread may ask: between two steps, whoever takes
        them answers."""
        return self._between_steps(self._snapshot)

    @lets_go
    def view(self, *, since: int = 0, texts: bool = True) -> EngineView:
        """What the engine's blocks hold, who runs and waits, and what it has done last.

        since: the steps noted are those from this number on. texts: name those that can be found.
        Any thread may ask, as `snapshot`; takes a microsecond or two for each block that is known,
        and as long again for texts, in which no step is taken.
        """
        return self._between_steps(lambda: self._view(since, texts))

    @lets_go
    def drop(self, text: KnownText) -> bool:
        """Let a text of `EngineView.texts` be found no more, nor what goes on from it; False: it
        has gone, or has grown. Blocks that other texts need stay. What runs keeps what it has until
        it ends, and is not found then. Files of a prefix store that hold any of it go soon, with
        all that lies in them."""
        return self._between_steps(lambda: self._residents.drop(text.id, text.salt))

    def _between_steps(self, do: Callable[[], Found]) -> Found:
        """What `do` returns or raises: at once where nobody computes, else behind a step."""
        if self._is_changing_here:
            return do()

        def act() -> Found:  # as this engine steps, or another one of the room, or nobody
            return do() if self._is_changing_here else self._change(do)

        return self.room.errands.do(
            act, lambda: self.model.is_running_elsewhere, self.model.run_alone
        )

    def _snapshot(self) -> Snapshot:
        waiting = self.scheduler.num_waiting + len(self._inbox)
        running = len(self.scheduler.running)
        return Snapshot(deepcopy(self.counters), waiting, running, self._residents.blocks())

    def _view(self, since: int, texts: bool) -> EngineView:
        began, requests = time.perf_counter(), list(self._open)
        waiting = [x for x in requests if x.phase is not Phase.RUNNING]
        found = self._residents.look(self.scheduler.running)
        return EngineView(
            at=time.monotonic(),
            snapshot=self._snapshot(),
            owners=found.owners,
            blocks=found.blocks,
            num_texts=found.num_texts,
            texts=tuple(self._residents.texts()) if texts else (),
            running=tuple(note_of(x, "running") for x in self.scheduler.running),
            waiting=tuple(note_of(x, "waiting") for x in waiting[:MOST_WAITING]),
            ended=tuple(self._recent.ended),
            steps=tuple(step for step in self._recent.steps if step.number >= since),
            memory=MemoryUse(
                self.room.limit,
                self.room.budget.taken,
                sum(x.block_bytes * x.count(BlockState.HELD) for x in found.blocks),
                sum(x.block_bytes * x.count(BlockState.FINDABLE) for x in found.blocks),
            ),
            tenants=tuple(self.scheduler.shares.of(requests)),
            num_waiting=len(waiting) + len(self._inbox),
            seconds=time.perf_counter() - began,
        )

    @lets_go
    def hand_over(self, continuation: Continuation) -> Held | None:
        """The keys of a text that has ended, for who goes on from it, where they have a cache to
        themselves; the engine has them no more. None: they have not, or another text came there."""
        if self._is_changing_here:  # as where a stream is collected in a step
            return None

        def take_away() -> Held | None:
            self._hear()
            self._forward.forget()
            return self._residents.hand_over(continuation)

        return self._change(take_away)

    @lets_go
    def forget(self) -> None:
        """Let no text that has ended be found again, and give the memory of its keys back. What an
        encoder has made of inputs goes too, but where they were given to this engine: others may
        find them."""

        def forget() -> None:
            self._hear()
            self._forward.forget()
            self._residents.forget()
            self._drafting.forget()
            if self._own_inputs is not None:
                self._own_inputs.forget()

        self._change(forget)
