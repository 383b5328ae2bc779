"""What the raw step times come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from statistics import mean, median, stdev

from kept.bench.experiment import Result
from kept.bench.trace import Trace


@dataclass(frozen=True, slots=True)
class Totals:
    """Of the complete runs of one kind. seconds are per run; std is of the sample, None for one.

    tokens_per_second: new tokens over the mean time, the prompt's reading included.
    """

    runs: int
    mean: float
    std: float | None
    median: float
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Floor:
    """The least a cached decode can take: every step reads the weights and the keys and values.

    bandwidth: bytes per second, the best seen in the same run. weight_bytes: read per step.
    seconds: of all decode steps (those after the first) at that rate. share: of their measured
    time, how much that is; 1 is the limit.
    """

    bandwidth: float
    weight_bytes: int
    weight_share: float
    seconds: float
    share: float


@dataclass(frozen=True, slots=True)
class Prefill:
    """The whole-prompt pass that came nearest to the peak of matrix arithmetic.

    operations: of its matrix products. peak: operations per second, the best seen in the same run,
    by the instructions `path`. share: of that peak, how much the pass reached; 1 is the limit.
    """

    tokens: int
    seconds: float
    operations: int
    peak: float
    path: str
    share: float


@dataclass(frozen=True, slots=True)
class Summary:
    """An experiment in figures.

    steps_with, steps_without: (new,) seconds of each step, the median over runs; shorter where an
    experiment was cut short. ratio: mean time without the cache over mean time with it. agreeing:
    how many leading tokens are the same with and without; None where one was not measured.
    """

    with_cache: Totals | None
    without_cache: Totals | None
    ratio: float | None
    lengths: tuple[int, ...]
    steps_with: tuple[float, ...]
    steps_without: tuple[float, ...]
    cache_bytes: tuple[int, ...]
    agreeing: int | None
    floor: Floor | None
    prefill: Prefill | None


def summarise(result: Result) -> Summary:
    """Figures from an experiment's raw times."""
    cached, uncached = result.of(True), result.of(False)
    with_cache, without_cache = _totals(cached), _totals(uncached)
    steps = step_medians(cached)
    return Summary(
        with_cache=with_cache,
        without_cache=without_cache,
        ratio=without_cache.mean / with_cache.mean if with_cache and without_cache else None,
        lengths=tuple(result.settings.prompt_tokens + i for i in range(len(steps))),
        steps_with=steps,
        steps_without=step_medians(uncached),
        cache_bytes=tuple(max(cached, key=lambda t: len(t.cache_bytes)).cache_bytes)
        if cached
        else (),
        agreeing=_agreeing(cached[0], uncached[0]) if cached and uncached else None,
        floor=_floor(result, steps),
        prefill=_prefill(result),
    )


def step_medians(traces: Sequence[Trace]) -> tuple[float, ...]:
    """Each step's median over the runs that came as far."""
    longest = max((len(t.step_seconds) for t in traces), default=0)
    return tuple(
        median(t.step_seconds[i] for t in traces if i < len(t.step_seconds)) for i in range(longest)
    )


def smooth(values: Sequence[float], reach: int) -> list[float]:
    """The running median over `reach` neighbours on either side."""
    return [median(values[max(i - reach, 0) : i + reach + 1]) for i in range(len(values))]


def _totals(traces: Sequence[Trace]) -> Totals | None:
    complete = [t for t in traces if t.complete]
    if not complete:
        return None
    seconds = [t.seconds for t in complete]
    average = mean(seconds)
    return Totals(
        runs=len(seconds),
        mean=average,
        std=stdev(seconds) if len(seconds) > 1 else None,
        median=median(seconds),
        tokens_per_second=complete[0].new_tokens / average,
    )


def _agreeing(one: Trace, other: Trace) -> int:
    pairs = zip(one.token_ids, other.token_ids, strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _floor(result: Result, steps: Sequence[float]) -> Floor | None:
    measured = sum(steps[1:])
    bandwidth = result.limits.bandwidth
    if bandwidth is None or not measured:
        return None
    weights = result.subject.step_weight_bytes
    prompt, num_steps = result.settings.prompt_tokens, len(steps) - 1
    keys = sum(result.subject.kv_bytes(prompt + i) for i in range(1, len(steps)))
    seconds = (weights * num_steps + keys) / bandwidth
    return Floor(
        bandwidth=bandwidth,
        weight_bytes=weights,
        weight_share=weights * num_steps / bandwidth / measured,
        seconds=seconds,
        share=seconds / measured,
    )


def _prefill(result: Result) -> Prefill | None:
    peak = result.limits.peak
    if peak is None or not result.passes:
        return None
    count = result.subject.pass_operations
    tokens, seconds = max(result.passes, key=lambda found: count(found[0]) / found[1])
    return Prefill(
        tokens=tokens,
        seconds=seconds,
        operations=count(tokens),
        peak=peak.best,
        path=peak.path,
        share=count(tokens) / seconds / peak.best,
    )
