"""Serving a plan in real time: send what is due, step, and note when each token came."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from kept.bench.experiment import check_count, check_threads_and_seed, measuring
from kept.bench.model_clock import ModelClock, model_clock
from kept.bench.resident import resident_bytes
from kept.bench.serve_record import (
    Drawn,
    Ended,
    Moment,
    PassTime,
    Record,
    Served,
    Server,
    ServeResult,
    ServeSettings,
)
from kept.bench.serve_work import Arrival, Text, Texts, Workload
from kept.bench.subject import Subject
from kept.errors import KeptError, OptionError

_WARM_UP: Final = 4  # requests, and tokens that each draws
_LONGEST_WARM_UP: Final = 512  # tokens of their prompts
_APART: Final = 0.02  # seconds between two looks at how full the engine is


class Clock(Protocol):
    """Time as it passes."""

    def now(self) -> float:
        """Seconds, from anywhere."""

    def sleep(self, seconds: float) -> None:
        """Let time pass."""


class RealClock:
    """This machine's."""

    def now(self) -> float:
        """See `Clock.now`."""
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        time.sleep(seconds)


class ServeWatcher(Protocol):
    """Who is told how it goes."""

    def began(self, what: str, plan: Sequence[Arrival]) -> None:
        """A plan is about to be served."""

    def stepped(self, record: Record) -> None:
        """A step is done."""


def run_serve(
    subject: Subject,
    settings: ServeSettings,
    workload: Workload,
    make_server: Callable[[Subject, ServeSettings], Server],
    watcher: ServeWatcher,
) -> ServeResult:
    """Warm up, learn the capacity where the plan depends on it, and serve the plan.

    Ctrl-C ends it: the result then holds what was measured so far and says `interrupted`. Raises
    ContextLengthError where a request does not fit the model's context, KeptError where every
    request failed or none was sent, and what making the server raises.
    """
    check_settings(settings)
    context = subject.model.config.context
    # Whether all of it fits should be known before the capacity is measured.
    workload.plan(settings.seed, context, 1.0)
    result = ServeResult(subject, settings)
    with measuring(result):
        server = make_server(subject, settings)
        _measure(result, workload, server, watcher)
    return result


def check_settings(settings: ServeSettings) -> None:
    """Raise OptionError for what is out of range."""
    check_count("max_batch_size", settings.max_batch_size)
    check_threads_and_seed(settings.threads, settings.seed)
    for name in ("max_step_time", "duration"):
        value = getattr(settings, name)
        if value is not None and not value > 0:
            raise OptionError(f"{name}={value}: give seconds above 0, or leave it out")


def _measure(
    result: ServeResult, workload: Workload, server: Server, watcher: ServeWatcher
) -> None:
    subject, settings = result.subject, result.settings
    context, device = subject.model.config.context, subject.model.device
    trial = workload.trial(settings.seed, context)
    warm_up = _warm_up(trial or workload.plan(settings.seed, context, None))
    _serve_aside(result, server, watcher, "warming up", warm_up, seed=settings.seed + 1)
    if trial is not None:
        found = _serve_aside(result, server, watcher, "capacity", trial, seed=settings.seed + 2)
        result.capacity = num_done(found) / found.seconds
    plan = workload.plan(settings.seed, context, result.capacity)
    texts = Texts(plan, subject.model.config.vocab_size, settings.seed)
    result.limits.measure(device, subject.matrix_dtype, isa=subject.instructions)
    watcher.began("serving", plan)
    with model_clock(subject.model) as kernels:
        serving = Serving(server, plan, texts, result.record, kernels)
        serving.run(watcher.stepped, settings.duration)
    num_done(result.record)
    result.limits.measure(device, subject.matrix_dtype, isa=subject.instructions)


def num_done(record: Record) -> int:
    """How many requests drew all of their tokens. Raises KeptError where every one failed, or none
    was sent."""
    served = record.served.values()
    if not served:
        raise KeptError("no request was due in time to be sent; give a longer duration")
    failed = [found.error for found in served if found.error is not None]
    if len(failed) == len(served):
        raise KeptError(
            f"not one of {len(failed)} requests could be served; the first: {failed[0]}"
        )
    return sum(found.done for found in served)


def _warm_up(plan: Iterable[Arrival]) -> list[Arrival]:
    """A little of a plan, to be served before anything counts."""
    some = list(plan)[:_WARM_UP]
    return [
        Arrival(
            0.0,
            (Text(index, min(arrival.prompt_tokens, _LONGEST_WARM_UP)),),
            min(arrival.new_tokens, _WARM_UP),
        )
        for index, arrival in enumerate(some)
    ]


def _serve_aside(
    result: ServeResult,
    server: Server,
    watcher: ServeWatcher,
    what: str,
    plan: Sequence[Arrival],
    seed: int,
) -> Record:
    """Serve what is no part of the result; the server forgets it."""
    record = Record()
    watcher.began(what, plan)
    texts = Texts(plan, result.subject.model.config.vocab_size, seed)
    with model_clock(result.subject.model) as kernels:
        Serving(server, plan, texts, record, kernels).run(watcher.stepped)
    server.clear()
    return record


class Serving:
    """One plan on its way through a server."""

    def __init__(
        self,
        server: Server,
        plan: Sequence[Arrival],
        texts: Texts,
        record: Record,
        kernels: ModelClock,
        clock: Clock | None = None,
    ) -> None:
        self._server, self._plan, self._texts, self._record = server, plan, texts, record
        self._kernels, self._clock = kernels, clock or RealClock()
        self._due = [(a.at, i) for i, a in enumerate(plan) if a.after is None]
        heapq.heapify(self._due)
        self._followers: dict[int, list[int]] = {}
        for index, arrival in enumerate(plan):
            if arrival.after is not None:
                self._followers.setdefault(arrival.after, []).append(index)
        self._open: set[int] = set()  # taken by the server, and not ended
        record.num_blocks = server.num_blocks

    def run(self, stepped: Callable[[Record], None], duration: float | None = None) -> None:
        """Until everything that was sent is answered. Mutates the record.

        duration: seconds after which nothing more is sent.
        """
        self._start = self._clock.now()
        try:
            while self._send(duration) or self._server.has_work:
                if self._server.has_work:
                    self._step()
                    stepped(self._record)
                else:
                    self._clock.sleep(max(self._due[0][0] - self._now(), 0.0))
        finally:
            self._record.seconds = self._now()
            for index in self._open:
                self._record.served[index].given = self._server.given(index)

    def _now(self) -> float:
        return self._clock.now() - self._start

    def _send(self, duration: float | None) -> bool:
        """Send what is due; returns whether anything is to come."""
        now = self._now()
        while self._due and self._due[0][0] <= now:
            due, index = heapq.heappop(self._due)
            if duration is None or due < duration:
                self._submit(index, due)
        if duration is not None and self._due and self._due[0][0] >= duration:
            self._due.clear()
        return bool(self._due)

    def _submit(self, index: int, due: float) -> None:
        arrival, served = self._plan[index], self._record.served
        answers = {p.of: served[p.of].answer for p in arrival.prompt if not isinstance(p, Text)}
        prompt = self._texts.prompt(arrival, answers)
        served[index] = Served(arrival, due, self._now(), list(prompt))
        try:
            self._server.submit(index, arrival, prompt)
        except KeptError as error:
            self._end(Ended(index, str(error)), self._now())
        else:
            self._open.add(index)

    def _step(self) -> None:
        begin = self._now()
        if not self._record.moments:
            self._look(begin)
        brought = self._server.step()
        now = self._now()
        self._record.passes.append(PassTime(begin, now - begin, self._kernels.take()))
        for event in brought:
            if isinstance(event, Drawn):
                served = self._record.served[event.index]
                served.token_ids.append(event.token_id)
                served.token_times.append(now)
            else:
                self._end(event, now)
        self._look(now)

    def _end(self, event: Ended, now: float) -> None:
        served = self._record.served[event.index]
        served.ended, served.error = now, event.error
        if event.index in self._open:
            self._open.remove(event.index)
            served.given = self._server.given(event.index)
        for index in self._followers.get(event.index, ()):
            heapq.heappush(self._due, (now + self._plan[index].at, index))

    def _look(self, now: float) -> None:
        moments = self._record.moments
        if not moments or now - moments[-1].at >= _APART or not self._server.has_work:
            moments.append(Moment(now, self._server.load(), resident_bytes()))
