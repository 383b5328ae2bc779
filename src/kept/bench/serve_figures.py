"""What the times of served requests come to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean
from types import MappingProxyType
from typing import Final

from kept.bench.serve_floor import Job, job_of
from kept.bench.serve_record import Bound, Served, ServeResult
from kept.bench.speed_figures import percentile
from kept.bench.work import Costs
from kept.errors import OptionError


@dataclass(frozen=True, slots=True)
class Spread:
    """How seconds are spread: a share of p50, p90 and p99 of them is below these."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class TenantFigures:
    """The requests of one tenant, or of all. Spreads are None where nothing came to them.

    ttft: from a request's arrival to its first token. tpot: per token after the first, of requests
    that drew all of theirs. gap: between two tokens of a request, all of them. e2e: from arrival to
    the end. queue: from arrival until it was admitted. cached: prompt tokens that were not
    computed, by where they came from; misses: requests by why there were no more of these;
    computed_tokens: that went through the model. parked: how often a request had to make room for
    another and wait again. well_served: requests within every bound, None without.
    """

    tenant: str
    num_requests: int
    num_done: int
    num_failed: int
    prompt_tokens: int
    drawn_tokens: int
    cached: Mapping[str, int]
    misses: Mapping[str, int]
    computed_tokens: int
    parked: int
    ttft: Spread | None
    tpot: Spread | None
    gap: Spread | None
    e2e: Spread | None
    queue: Spread | None
    well_served: int | None

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that were not computed, wherever they came from."""
        return sum(self.cached.values())


@dataclass(frozen=True, slots=True)
class ServeFigures:
    """A measurement as a whole.

    seconds: until the last answer. busy: within steps. outside_share: of that, beside the model's
    kernels. floor: seconds that the job takes at the machine's limits, None where they are not
    known. peak_blocks, peak_resident: the most that were in use at a time.
    """

    total: TenantFigures
    tenants: tuple[TenantFigures, ...]
    seconds: float
    busy: float
    num_passes: int
    outside_share: float
    peak_blocks: int
    peak_resident: int | None
    job: Job
    floor: float | None

    @property
    def requests_per_second(self) -> float:
        """Requests that drew all of their tokens."""
        return self.total.num_done / self.seconds

    @property
    def drawn_per_second(self) -> float:
        """Tokens drawn."""
        return self.total.drawn_tokens / self.seconds

    @property
    def tokens_per_second(self) -> float:
        """Tokens drawn and those of the prompts behind them, cached ones included."""
        return (self.total.drawn_tokens + self.total.prompt_tokens) / self.seconds

    @property
    def share(self) -> float | None:
        """How much of the time in steps the floor is; 1 is the limit."""
        return None if self.floor is None or not self.busy else self.floor / self.busy


def serve_figures(result: ServeResult) -> ServeFigures:
    """Figures from what was seen of the requests and passes."""
    settings, record = result.settings, result.record
    served = [record.served[index] for index in sorted(record.served)]
    by_tenant: dict[str, list[Served]] = {}
    for found in served:
        by_tenant.setdefault(found.arrival.tenant, []).append(found)
    bounds = settings.bounds
    busy = sum(step.seconds for step in record.passes)
    inside = sum(step.model_seconds for step in record.passes)
    resident = [moment.resident for moment in record.moments if moment.resident is not None]
    job = job_of(
        record.served, Costs.of(result.subject.model, settings.kv_dtype), settings.max_batch_size
    )
    tenants = tuple(_tenant(name, each, bounds) for name, each in sorted(by_tenant.items()))
    return ServeFigures(
        total=_tenant("", served, bounds),
        tenants=tenants if len(tenants) > 1 else (),
        seconds=record.seconds,
        busy=busy,
        num_passes=len(record.passes),
        outside_share=(busy - inside) / busy if busy else 0.0,
        peak_blocks=max((moment.load.used_blocks for moment in record.moments), default=0),
        peak_resident=max(resident, default=None),
        job=job,
        floor=job.floor(result.limits),
    )


def _tenant(name: str, served: Sequence[Served], bounds: Sequence[Bound]) -> TenantFigures:
    done = [found for found in served if found.done]
    begun = [found for found in served if found.token_times]
    cached: Counter[str] = Counter()
    for found in served:
        cached.update(found.given.cached)
    each = {figure: list(_each(figure, served)) for figure in FIGURES}
    return TenantFigures(
        tenant=name,
        num_requests=len(served),
        num_done=len(done),
        num_failed=sum(found.error is not None for found in served),
        prompt_tokens=sum(len(found.token_ids) - len(found.token_times) for found in begun),
        drawn_tokens=sum(len(found.token_times) for found in served),
        cached=dict(cached),
        misses=dict(Counter(found.given.miss for found in served if found.given.miss is not None)),
        computed_tokens=sum(found.given.num_computed for found in served),
        parked=sum(found.given.num_parked for found in served),
        **{figure: spread(values) for figure, values in each.items()},
        well_served=sum(_within(found, bounds) for found in done) if bounds else None,
    )


def spread(values: Sequence[float]) -> Spread | None:
    """The spread of some seconds; None where there are none."""
    if not values:
        return None
    p50, p90, p99 = (percentile(values, share) for share in (0.5, 0.9, 0.99))
    return Spread(len(values), mean(values), p50, p90, p99, max(values))


# What each figure of a request is in seconds: those of one, none or, for gaps, many.
def _ttft(found: Served) -> list[float]:
    return [found.token_times[0] - found.due] if found.token_times else []


def _tpot(found: Served) -> list[float]:
    times = found.token_times
    return [(times[-1] - times[0]) / (len(times) - 1)] if found.done and len(times) > 1 else []


def _gap(found: Served) -> list[float]:
    return [later - earlier for earlier, later in pairwise(found.token_times)]


def _e2e(found: Served) -> list[float]:
    return [found.ended - found.due] if found.done and found.ended is not None else []


def _queue(found: Served) -> list[float]:
    seconds = found.given.queue_seconds
    return [] if seconds is None else [found.sent - found.due + seconds]


FIGURES: Final = MappingProxyType(
    {"ttft": _ttft, "tpot": _tpot, "gap": _gap, "e2e": _e2e, "queue": _queue}
)


def _each(figure: str, served: Iterable[Served]) -> Iterable[float]:
    return (seconds for found in served for seconds in FIGURES[figure](found))


def _within(found: Served, bounds: Iterable[Bound]) -> bool:
    """Whether a request stays within every bound; with its longest gap, of gaps."""
    return all(max(FIGURES[b.figure](found), default=0.0) <= b.seconds for b in bounds)


def parse_bound(text: str) -> Bound:
    """Read "ttft:1.0", a figure and the most seconds of it. Raises OptionError."""
    found = re.fullmatch(r"(\w+):(\d+(?:\.\d+)?)", text)
    if found is None or found[1] not in FIGURES or not float(found[2]):
        raise OptionError(
            f"goodput={text!r}: give one of {', '.join(FIGURES)} and seconds above 0, as ttft:1.0"
        )
    return Bound(found[1], float(found[2]))
