"""What the raw times of a speed measurement come to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from kept.bench.speed import SpeedResult, SpeedTrace, Step
from kept.bench.work import Costs, Work


@dataclass(frozen=True, slots=True)
class Decode:
    """Decode steps: those of one run, or of all runs together.

    median, p10, p90: seconds of a step; a tenth of the steps are below p10 and above p90.
    tokens_per_second: all tokens over the sum of the steps. floor: seconds of a step at the least,
    the mean over the steps' lengths. share: of the measured time, how much that is; 1 is the
    limit. median_share: the same of the median step, which disturbances do not touch. outside:
    median seconds of a step outside the kernels; outside_share: of the measured time. floor
    and the shares of it are None where the read bandwidth is not known.
    """

    num_steps: int
    median: float
    p10: float
    p90: float
    tokens_per_second: float
    outside: float
    outside_share: float
    floor: float | None
    share: float | None
    median_share: float | None


@dataclass(frozen=True, slots=True)
class DecodeFigures:
    """work: of the step in the middle of the lengths, `length` tokens a sequence on average."""

    runs: tuple[Decode, ...]
    total: Decode
    length: int
    work: Work

    @property
    def operations_per_second(self) -> float:
        """What the median step reached."""
        return self.work.operations / self.total.median


@dataclass(frozen=True, slots=True)
class PromptFigures:
    """Reading prompts of one length, all of a batch together.

    seconds: of each run. median: of those. operations_per_second: of matrix products, by the
    median. share: of the matrix peak; None where it is not known.
    """

    tokens: int
    seconds: tuple[float, ...]
    median: float
    tokens_per_second: float
    work: Work
    operations_per_second: float
    share: float | None


@dataclass(frozen=True, slots=True)
class SpeedFigures:
    """decode: None where no token after the first was asked for or drawn."""

    prompts: tuple[PromptFigures, ...]
    decode: DecodeFigures | None


def speed_figures(result: SpeedResult) -> SpeedFigures:
    """Figures from raw times; a length no run came to the end of is left out."""
    costs = Costs.of(result.subject.model, result.settings.kv_dtype)
    return SpeedFigures(
        prompts=tuple(
            found
            for tokens in dict.fromkeys(result.settings.prompts)
            if (found := _prompt(result, costs, tokens)) is not None
        ),
        decode=_decode_figures(result, costs),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share of them lies, between neighbours by proportion."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def _decode_figures(result: SpeedResult, costs: Costs) -> DecodeFigures | None:
    runs = [trace.steps for trace in result.traces if trace.steps]
    if not runs:
        return None
    steps = [step for run in runs for step in run]
    middle = sorted(steps, key=lambda step: sum(step.lengths))[len(steps) // 2]
    return DecodeFigures(
        runs=tuple(_decode(run, result, costs) for run in runs),
        total=_decode(steps, result, costs),
        length=round(sum(middle.lengths) / len(middle.lengths)),
        work=costs.decode_step(middle.lengths),
    )


def _decode(steps: Sequence[Step], result: SpeedResult, costs: Costs) -> Decode:
    seconds = [step.seconds for step in steps]
    outside = [step.seconds - step.model_seconds for step in steps]
    floor = _floor(steps, result, costs)
    return Decode(
        num_steps=len(steps),
        median=median(seconds),
        p10=percentile(seconds, 0.1),
        p90=percentile(seconds, 0.9),
        tokens_per_second=sum(len(step.lengths) for step in steps) / sum(seconds),
        outside=median(outside),
        outside_share=sum(outside) / sum(seconds),
        floor=floor,
        share=None if floor is None else floor * len(steps) / sum(seconds),
        median_share=None if floor is None else floor / median(seconds),
    )


def _floor(steps: Sequence[Step], result: SpeedResult, costs: Costs) -> float | None:
    bandwidth, peak = result.limits.bandwidth, result.limits.peak
    if bandwidth is None:
        return None
    rate = None if peak is None else peak.best
    each = (costs.decode_step(step.lengths).floor(bandwidth, rate) for step in steps)
    return sum(each) / len(steps)


def _prompt(result: SpeedResult, costs: Costs, tokens: int) -> PromptFigures | None:
    seconds = tuple(_readings(result.traces, tokens))
    if not seconds:
        return None
    batch, peak = result.settings.batch, result.limits.peak
    work, typical = costs.prompt(tokens, batch), median(seconds)
    rate = work.operations / typical
    return PromptFigures(
        tokens=tokens,
        seconds=seconds,
        median=typical,
        tokens_per_second=batch * tokens / typical,
        work=work,
        operations_per_second=rate,
        share=None if peak is None else rate / peak.best,
    )


def _readings(traces: Sequence[SpeedTrace], tokens: int) -> list[float]:
    return [
        trace.prompt_seconds
        for trace in traces
        if trace.prompt_tokens == tokens and trace.prompt_seconds is not None
    ]
