"""How fast prompts are read and tokens drawn, step by step, with the machine's limits beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from kept.bench.experiment import (
    check_context,
    check_count,
    check_threads_and_seed,
    measuring,
)
from kept.bench.limits import Limits
from kept.bench.model_clock import model_clock
from kept.bench.subject import Subject
from kept.bench.trace import greedy, random_prompt, timed_steps
from kept.engine import PREFILL_CHUNK
from kept.errors import OptionError
from kept.llm import Generation
from kept.models import CausalLM

_WARM_UP_STEPS: Final = 4


@dataclass(frozen=True, slots=True)
class SpeedSettings:
    """What to measure.

    prompts: lengths in tokens, each measured in turn. new_tokens: drawn after each prompt, by every
    one of `batch` sequences; with 1 only the prompts' reading is measured. runs: of each prompt.
    threads: to compute on, None for all there are. kv_dtype: what the cache stores, None for the
    model's dtype.
    """

    prompts: tuple[int, ...]
    new_tokens: int = 1
    batch: int = 1
    runs: int = 5
    seed: int = 0
    threads: int | None = None
    kv_dtype: str | None = None

    def __post_init__(self) -> None:
        for name in ("new_tokens", "batch", "runs"):
            check_count(name, getattr(self, name))
        if not self.prompts:
            raise OptionError("prompts=(): give at least one length")
        for length in self.prompts:
            check_count("prompt_tokens", length)
            self._check_decoding(length)
        check_threads_and_seed(self.threads, self.seed)

    def num_passes(self, prompt: int) -> int:
        """How many passes read the prompts, at most.

        Sequences that are done with theirs draw tokens in the passes that read the others'.
        """
        room = PREFILL_CHUNK if self.batch == 1 else max(PREFILL_CHUNK - self.batch, 1)
        return -(-prompt * self.batch // room)

    def check(self, context: int) -> None:
        """Raise ContextLengthError where prompts and new tokens do not fit a model's context."""
        for length in self.prompts:
            check_context(length, self.new_tokens, context)

    def _check_decoding(self, prompt: int) -> None:
        passes = self.num_passes(prompt)
        if 1 < self.new_tokens <= passes:
            raise OptionError(
                f"new_tokens={self.new_tokens}: reading {self.batch} prompts of {prompt} takes up "
                f"to {passes} passes, and the first sequence would end before the last begins; "
                f"ask for at least {passes + 1}"
            )


@dataclass(frozen=True, slots=True)
class Step:
    """A step in which every sequence drew a token.

    lengths: (B,) tokens each attended. seconds: of the whole step, up to the choice of the token.
    model_seconds: of the model's kernels within it.
    """

    lengths: tuple[int, ...]
    seconds: float
    model_seconds: float


@dataclass(slots=True)
class SpeedTrace:
    """One generation of a batch. Filled as it runs, so that an interrupted one keeps what it has.

    prompt_seconds: until every sequence had its first token; None while that is not so. steps:
    those after that, until the first sequence ended.
    """

    prompt_tokens: int
    prompt_seconds: float | None = None
    steps: list[Step] = field(default_factory=list)


class SpeedWatcher(Protocol):
    """Who is told how a measurement goes."""

    def expected(self, seconds: float, num_traces: int) -> None:
        """The warm-up is over, and the rest is likely to take so long."""

    def spent(self, seconds: float) -> None:
        """A step of a run is done, which took so long."""

    def run_done(self, trace: SpeedTrace, index: int) -> None:
        """A run is complete; index counts those of its prompt from 0."""


@dataclass(slots=True)
class SpeedResult:
    """What was measured, also of a measurement cut short.

    limits: of the machine, before and after the runs.
    """

    subject: Subject
    settings: SpeedSettings
    num_threads: int = 0
    traces: list[SpeedTrace] = field(default_factory=list)
    limits: Limits = field(default_factory=Limits)
    interrupted: bool = False

    @property
    def measured(self) -> bool:
        """Whether anything was."""
        return any(trace.prompt_seconds is not None for trace in self.traces)


def run_speed(subject: Subject, settings: SpeedSettings, watcher: SpeedWatcher) -> SpeedResult:
    """Warm up, then read every prompt and draw its tokens, `settings.runs` times in turn.

    Ctrl-C ends it: the result then holds what was measured so far and says `interrupted`. Raises
    ContextLengthError where the tokens do not fit the model's context, OptionError for a cache
    that cannot be had.
    """
    settings.check(subject.model.config.context)
    result = SpeedResult(subject, settings)
    with measuring(result):
        _measure(result, watcher)
    return result


def _measure(result: SpeedResult, watcher: SpeedWatcher) -> None:
    subject, settings = result.subject, result.settings
    model = subject.model
    each = [_warm_up(model, settings, prompt) for prompt in settings.prompts]
    watcher.expected(settings.runs * sum(each), settings.runs * len(each))
    result.limits.measure(model.device, subject.matrix_dtype, isa=subject.instructions)
    for index in range(settings.runs):
        for prompt in settings.prompts:
            trace = SpeedTrace(prompt)
            result.traces.append(trace)
            _run(model, settings, trace, watcher.spent)
            watcher.run_done(trace, index)
    result.limits.measure(model.device, subject.matrix_dtype, isa=subject.instructions)


def _warm_up(model: CausalLM, settings: SpeedSettings, prompt: int) -> float:
    """Run a little of one prompt's measurement; returns what all of it is likely to take."""
    read = min(prompt, PREFILL_CHUNK)
    passes = settings.num_passes(read)
    trace = SpeedTrace(read)
    new = 1 if settings.new_tokens == 1 else min(settings.new_tokens, passes + _WARM_UP_STEPS)
    _run(model, settings, trace, lambda _: None, new)
    assert trace.prompt_seconds is not None
    reading = trace.prompt_seconds * prompt / read
    if not trace.steps:
        return reading
    return reading + (settings.new_tokens - 1) * trace.steps[-1].seconds


def _run(
    model: CausalLM,
    settings: SpeedSettings,
    trace: SpeedTrace,
    spent: Callable[[float], None],
    new_tokens: int | None = None,
) -> None:
    generation = _generation(
        model, settings, trace.prompt_tokens, new_tokens or settings.new_tokens
    )
    sequences = generation.continuations
    reading = 0.0
    with model_clock(model) as clock:
        decoding = False  # whether every sequence has a token and none has ended
        for seconds in timed_steps(generation):
            model_seconds = clock.take()
            if decoding:
                # The token just drawn is not stored yet.
                lengths = tuple(len(c.history) - 1 for c in sequences)
                trace.steps.append(Step(lengths, seconds, model_seconds))
            elif trace.prompt_seconds is None:
                reading += seconds
                if all(c.history.num_generated for c in sequences):
                    trace.prompt_seconds = reading
            ended = any(c.finish_reason is not None for c in sequences)
            decoding = trace.prompt_seconds is not None and not ended
            spent(seconds)


def _generation(model: CausalLM, settings: SpeedSettings, prompt: int, new: int) -> Generation:
    vocabulary, seed = model.config.vocab_size, settings.seed
    prompts = [random_prompt(vocabulary, prompt, seed + i) for i in range(settings.batch)]
    return greedy(model, prompts, new, prefill_chunk=PREFILL_CHUNK, kv_dtype=settings.kv_dtype)
