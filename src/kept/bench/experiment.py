"""The classic experiment: the same generation with and without the key/value cache, in turn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch

from kept.bench.estimate import Estimate, estimate
from kept.bench.limits import Limits
from kept.bench.subject import Subject
from kept.bench.trace import Trace, random_prompt, time_generation
from kept.errors import ContextLengthError, OptionError
from kept.models import CausalLM
from kept.ops import use_threads


@dataclass(frozen=True, slots=True)
class Settings:
    """What to measure.

    new_tokens: drawn in each run. prompt_tokens: random ids in front of them. runs: of each kind.
    without_cache: whether to measure that kind at all. threads: to compute on, None for
    all there are.
    """

    new_tokens: int = 1000
    prompt_tokens: int = 8
    runs: int = 3
    without_cache: bool = True
    seed: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("new_tokens", "prompt_tokens", "runs"):
            check_count(name, getattr(self, name))
        check_threads_and_seed(self.threads, self.seed)

    def check(self, context: int) -> None:
        """Raise ContextLengthError where prompt and new tokens do not fit a model's context."""
        check_context(self.prompt_tokens, self.new_tokens, context)


def check_count(name: str, value: int) -> None:
    """Raise OptionError for less than 1."""
    if value < 1:
        raise OptionError(f"{name}={value}: give at least 1")


def check_threads_and_seed(threads: int | None, seed: int) -> None:
    """Raise OptionError for what torch cannot be told."""
    if threads is not None and threads < 1:
        raise OptionError(f"threads={threads}: give at least 1, or leave it out")
    if not 0 <= seed < 2**63:
        raise OptionError(f"seed={seed}: give a whole number from 0 to 2**63 - 1")


def check_context(prompt_tokens: int, new_tokens: int, context: int) -> None:
    """Raise ContextLengthError where prompt and new tokens do not fit a model's context."""
    # The last token is drawn and never read.
    if prompt_tokens + new_tokens - 1 <= context:
        return
    room = context - prompt_tokens + 1
    remedy = f"ask for {room} new tokens at most" if room > 0 else "shorten the prompt"
    raise ContextLengthError(
        f"a prompt of {prompt_tokens} and {new_tokens} new tokens go past this "
        f"model's context of {context}; {remedy}, or take a model with a longer context"
    )


class Watcher(Protocol):
    """Who is told how an experiment goes."""

    def estimated(self, found: Estimate, settings: Settings) -> None:
        """The first steps have been timed, and nothing else has run yet."""

    def token_drawn(self, trace: Trace, seconds_expected: float) -> None:
        """The trace's last step is done, which was expected to take this long."""

    def run_done(self, trace: Trace, index: int) -> None:
        """A run is complete; index counts those of its kind from 0."""


@dataclass(slots=True)
class Result:
    """What was measured, also of an experiment cut short.

    passes: (tokens, seconds) of whole-prompt passes before the runs. limits: of the machine, before
    and after the runs.
    """

    subject: Subject
    settings: Settings
    num_threads: int = 0
    traces: list[Trace] = field(default_factory=list)
    passes: tuple[tuple[int, float], ...] = ()
    limits: Limits = field(default_factory=Limits)
    interrupted: bool = False

    def of(self, use_cache: bool) -> list[Trace]:
        """The traces of one kind that have at least one step."""
        return [t for t in self.traces if t.use_cache == use_cache and t.step_seconds]


def run_experiment(subject: Subject, settings: Settings, watcher: Watcher) -> Result:
    """Warm up, then run with and without the cache in turn, `settings.runs` times each.

    Ctrl-C ends it: the result then holds what was measured so far and says `interrupted`. Raises
    ContextLengthError where the tokens do not fit the model's context.
    """
    settings.check(subject.model.config.context)
    result = Result(subject, settings)
    with measuring(result):
        _measure(result, watcher)
    return result


def _measure(result: Result, watcher: Watcher) -> None:
    settings, model = result.settings, result.subject.model
    expected = estimate(model, settings.prompt_tokens, settings.new_tokens, settings.seed)
    watcher.estimated(expected, settings)
    prompt = random_prompt(model.config.vocab_size, settings.prompt_tokens, settings.seed)
    result.passes = expected.without_cache.points
    subject = result.subject
    result.limits.measure(model.device, subject.matrix_dtype, isa=subject.instructions)
    for index in range(settings.runs):
        for use_cache in (True, False) if settings.without_cache else (True,):
            trace = Trace(use_cache, settings.prompt_tokens, settings.new_tokens)
            result.traces.append(trace)

            def on_token(trace: Trace = trace) -> None:
                step = len(trace.step_seconds) - 1
                watcher.token_drawn(trace, expected.step_seconds(trace.use_cache, step))

            time_generation(model, prompt, trace, on_token)
            watcher.run_done(trace, index)
    result.limits.measure(model.device, subject.matrix_dtype, isa=subject.instructions)


class Measured(Protocol):
    """A result in the making."""

    subject: Subject
    num_threads: int
    interrupted: bool

    @property
    def settings(self) -> Threaded: ...


class Threaded(Protocol):
    """Settings that say how many threads to compute on."""

    @property
    def threads(self) -> int | None: ...


@contextmanager
def measuring(result: Measured) -> Iterator[None]:
    """Fill a result on the threads its settings ask for; Ctrl-C ends it, and the result says so."""
    with computing_threads(result.subject.model, result.settings.threads) as result.num_threads:
        try:
            yield
        except KeyboardInterrupt:
            result.interrupted = True


@contextmanager
def computing_threads(model: CausalLM, num_threads: int | None) -> Iterator[int]:
    """Run a model on this many threads for a while; None changes nothing. Yields the count.

    Of torch and of the native kernels, whichever run it. Raises BackendError where the system
    grants no more threads.
    """
    with torch_threads(num_threads):
        if model.native is None:
            yield torch.get_num_threads()
            return
        try:
            yield use_threads(num_threads)
        finally:
            use_threads()


@contextmanager
def torch_threads(num_threads: int | None) -> Iterator[None]:
    """Run torch on this many threads for a while; None changes nothing."""
    before = torch.get_num_threads()
    try:
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        yield
    finally:
        torch.set_num_threads(before)
