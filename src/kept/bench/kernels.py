"""The native kernels alone: linear layers and attention, beside the machine's limits."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, get_args

import torch

from kept.bench.experiment import check_count
from kept.bench.kernel_attention import CODECS, AttentionGroup, shape_heads
from kept.bench.kernel_cases import FORMATS, LinearGroup, shape_layers
from kept.bench.kernel_walk import Case, Group, per_run
from kept.bench.limits import Limits
from kept.bench.shapes import shape_config
from kept.errors import BackendError, OptionError
from kept.format import format_bytes
from kept.machine import MatrixDtype, describe_machine
from kept.ops import isa, num_threads, why_reference

_TIMES_CACHE = 4  # how much more than the last-level cache all copies take together
_UNKNOWN_CACHE = 32 << 20  # taken where the system does not say
_MOST_MEMORY = 0.5  # of what is free

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class KernelSettings:
    """What to measure. isa, threads: None for what the environment or the CPU says.

    queries: of the newest tokens of a sequence, at each length. sharing: sequences that decode
    after common tokens.
    """

    shape: str = "qwen2.5-0.5b"
    rows: tuple[int, ...] = (1, 4, 16, 128, 512)
    lengths: tuple[int, ...] = (256, 2048, 8192)
    queries: tuple[int, ...] = (1, 256)
    sharing: tuple[int, ...] = (16,)
    formats: tuple[str, ...] = FORMATS
    codecs: tuple[str, ...] = ("float32", "bfloat16", "int8", "int4")
    isa: str | None = None
    runs: int = 10
    threads: int | None = None

    def __post_init__(self) -> None:
        shape_config(self.shape)
        check_count("runs", self.runs)
        for name, known in (("formats", FORMATS), ("codecs", CODECS)):
            for value in getattr(self, name):
                if value not in known:
                    raise OptionError(
                        f"{name}: {value!r} is not one of {', '.join(known)}; name those alone"
                    )
        for name in ("rows", "lengths", "queries", "sharing"):
            for count in getattr(self, name):
                check_count(name, count)
        if self.threads is not None:
            check_count("threads", self.threads)
        attends = self.lengths and self.codecs and (self.queries or self.sharing)
        if not (self.rows and self.formats) and not attends:
            raise OptionError("nothing to measure; give rows and formats, or lengths and codecs")


@dataclass(slots=True)
class Timed:
    """A case's times: seconds of one operation, the mean over the `per_run` of each run.

    num_copies: of the memory it reads.
    """

    case: Case
    num_copies: int
    per_run: int
    seconds: list[float] = field(default_factory=list)


class KernelWatcher(Protocol):
    """Who is told how a measurement goes."""

    def expected(self, seconds: float) -> None:
        """All runs together would take so long at the machine's limits."""

    def preparing(self, what: str) -> None:
        """Memory of one kind is being filled."""

    def spent(self, seconds: float, expected: float) -> None:
        """A run is done, which took so long, and would have at the machine's limits."""


@dataclass(slots=True)
class KernelResult:
    """What was measured, also of a measurement cut short.

    limits: before and after the runs, by the type of arithmetic. short: memory was too little for
    as many copies as wanted.
    """

    settings: KernelSettings
    isa: str
    num_threads: int
    timed: list[Timed] = field(default_factory=list)
    limits: dict[MatrixDtype, Limits] = field(default_factory=dict)
    short: bool = False
    interrupted: bool = False

    @property
    def bandwidth(self) -> float | None:
        """Bytes per second, the best seen."""
        found = (limits.bandwidth for limits in self.limits.values())
        return max((rate for rate in found if rate is not None), default=None)

    def floor(self, case: Case) -> float | None:
        """Seconds no operation of a case can be faster than; None without a read bandwidth."""
        limits = self.limits.get(case.arithmetic)
        peak = None if limits is None or limits.peak is None else limits.peak.best
        return None if self.bandwidth is None else case.work.floor(self.bandwidth, peak)


def run_kernels(
    settings: KernelSettings, watcher: KernelWatcher, clock: Clock = time.perf_counter
) -> KernelResult:
    """Time every case `settings.runs` times, one group of memory after the other.

    clock: seconds. Ctrl-C ends it: the result then holds what was measured so far and says
    `interrupted`. Raises BackendError where the native kernels cannot be had, OptionError for
    instructions this CPU lacks, and for too little memory.
    """
    why = why_reference()
    if why is not None:
        remedy = "; set it to auto or native" if why.startswith("KEPT_OPS") else ""
        raise BackendError(
            f"only the native kernels are timed here, and they do not run: {why}{remedy}"
        )
    with _environment(KEPT_ISA=settings.isa, KEPT_NUM_THREADS=settings.threads):
        _check_isa(settings.isa)
        groups = make_groups(settings)
        result = KernelResult(settings, isa(), num_threads())
        copies = [_num_copies(group, result) for group in groups]
        try:
            _measure(result, list(zip(groups, copies, strict=True)), watcher, clock)
        except KeyboardInterrupt:
            result.interrupted = True
    result.timed = [timed for timed in result.timed if timed.seconds]
    return result


def make_groups(settings: KernelSettings) -> list[Group]:
    """What is to be timed, by the memory it reads."""
    groups: list[Group] = []
    if settings.rows:
        for layer in shape_layers(settings.shape):
            groups += (LinearGroup(layer, name, settings.rows) for name in settings.formats)
    heads = shape_heads(settings.shape)
    for length in settings.lengths:
        for name in settings.codecs:
            if settings.queries:
                groups.append(AttentionGroup(heads, name, length, settings.queries))
            groups += (AttentionGroup(heads, name, length, sharing=n) for n in settings.sharing)
    return groups


def _measure(
    result: KernelResult,
    groups: Sequence[tuple[Group, int]],
    watcher: KernelWatcher,
    clock: Clock,
) -> None:
    _probe(result, groups)
    torch.manual_seed(0)
    runs = result.settings.runs
    total = 0.0
    for group, num_copies in groups:
        total += sum(_expected(result, case, per_run(case, num_copies)) for case in group.cases)
    watcher.expected(runs * total)
    for group, num_copies in groups:
        first = group.cases[0]
        watcher.preparing(f"{first.name}, {first.stored}")
        for walk in group.walks(num_copies):
            timed = Timed(walk.case, walk.num_copies, walk.per_run)
            result.timed.append(timed)
            walk.run()
            for _ in range(runs):
                begin = clock()
                walk.run()
                seconds = clock() - begin
                timed.seconds.append(seconds / walk.per_run)
                watcher.spent(seconds, _expected(result, walk.case, walk.per_run))
    _probe(result, groups)


def _probe(result: KernelResult, groups: Sequence[tuple[Group, int]]) -> None:
    used = {case.arithmetic for group, _ in groups for case in group.cases}
    for dtype in get_args(MatrixDtype):
        if dtype in used:
            limits = result.limits.setdefault(dtype, Limits())
            limits.measure(torch.device("cpu"), dtype, result.num_threads, result.isa)


def _expected(result: KernelResult, case: Case, count: int) -> float:
    return count * (result.floor(case) or 0.0)


def _num_copies(group: Group, result: KernelResult) -> int:
    """As many as no cache holds, or as memory does. Raises OptionError where that is not one."""
    machine = describe_machine()
    wanted = -(-_TIMES_CACHE * (machine.last_level_cache or _UNKNOWN_CACHE) // group.each)
    if machine.available_memory is None:
        return wanted
    free = int(_MOST_MEMORY * machine.available_memory)
    possible = (free - group.beside) // group.each
    if possible < 1:
        first = group.cases[0]
        raise OptionError(
            f"{first.name} in {first.stored} takes {format_bytes(group.each + group.beside)}, more "
            f"than half of the {format_bytes(machine.available_memory)} of memory that are free; "
            "take a smaller shape, fewer rows or shorter lengths"
        )
    result.short |= possible < wanted
    return min(wanted, possible)


def _check_isa(asked: str | None) -> None:
    from kept import _native

    names = _native.isa_names()
    if asked is not None and asked not in names:
        raise OptionError(f"isa={asked!r} cannot be had on this CPU; it has {', '.join(names)}")


@contextmanager
def _environment(**values: object) -> Iterator[None]:
    """Set these variables of the environment for a while; None leaves one as it is."""
    before = {name: os.environ.get(name) for name in values}
    try:
        os.environ.update({k: str(v) for k, v in values.items() if v is not None})
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
