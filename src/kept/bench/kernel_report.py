"""What the raw times of kernels come to: as figures, as tables and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kept.bench.json_report import origin
from kept.bench.kernel_walk import Case
from kept.bench.kernels import KernelResult, Timed
from kept.bench.speed_figures import percentile
from kept.bench.tables import new_table
from kept.machine import describe_machine


@dataclass(frozen=True, slots=True)
class KernelFigures:
    """A case's times in figures.

    median, p10, p90: seconds of one operation; a tenth of the runs are below p10 and above p90.
    bytes_per_second, operations_per_second: of the median. floor: seconds at the least. share: of
    the median, how much that is; both None where the read bandwidth is not known.
    """

    case: Case
    num_copies: int
    per_run: int
    median: float
    p10: float
    p90: float
    bytes_per_second: float
    operations_per_second: float
    floor: float | None
    share: float | None


def kernel_figures(result: KernelResult) -> list[KernelFigures]:
    """Figures from raw times, in the order they were measured."""
    return [_figures(result, timed) for timed in result.timed]


def _figures(result: KernelResult, timed: Timed) -> KernelFigures:
    case, typical = timed.case, median(timed.seconds)
    floor = result.floor(case)
    return KernelFigures(
        case=case,
        num_copies=timed.num_copies,
        per_run=timed.per_run,
        median=typical,
        p10=percentile(timed.seconds, 0.1),
        p90=percentile(timed.seconds, 0.9),
        bytes_per_second=case.work.num_bytes / typical,
        operations_per_second=case.work.operations / typical,
        floor=floor,
        share=None if floor is None else floor / typical,
    )


def kernel_report(result: KernelResult, figures: Sequence[KernelFigures]) -> RenderableType:
    """Everything a reader wants of a measurement, but the raw times."""
    return Group(*_parts(result, figures))


def kernel_json(result: KernelResult, figures: Sequence[KernelFigures]) -> dict[str, Any]:
    """A JSON-ready report. Times in seconds, sizes in bytes; `format` counts its layout."""
    return {
        "benchmark": "kernels",
        "interrupted": result.interrupted,
        **origin(kernel_threads=result.num_threads),
        "isa": result.isa,
        "settings": dataclasses.asdict(result.settings),
        "limits": {name: dataclasses.asdict(found) for name, found in result.limits.items()},
        "too_little_memory": result.short,
        "cases": [
            dataclasses.asdict(found) | {"seconds": [round(s, 12) for s in timed.seconds]}
            for found, timed in zip(figures, result.timed, strict=True)
        ],
    }


def _parts(result: KernelResult, figures: Sequence[KernelFigures]) -> Iterator[RenderableType]:
    threads = f"{result.num_threads} thread" + "s" * (result.num_threads != 1)
    yield Text(f"Kernels of {result.settings.shape}, random numbers", style="bold")
    yield Text(f"on {describe_machine().cpu}, {threads}, {result.isa}")
    if result.interrupted:
        yield Text("Interrupted: this is what was measured so far.", style="yellow")
    for kind, title in (("linear", "Linear layers"), ("attention", "Attention of one layer")):
        some = [found for found in figures if found.case.kind == kind]
        if some:
            yield Text()
            yield _table(title, some)
    yield Text()
    yield from (Text(line) for line in _notes(result))


def _table(title: str, figures: Sequence[KernelFigures]) -> Table:
    attention = figures[0].case.kind == "attention"
    own = ("codec", "length") if attention else ("layer", "format")
    columns = (*own, "rows", "ms", "p10 .. p90", "MB", "GB/s", "GFLOP/s", "of floor")
    table = new_table(title, *columns)
    # Nine columns in 80 characters.
    table.box, table.show_edge, table.padding = box.SIMPLE_HEAD, False, (0, 1, 0, 0)
    table.columns[1].justify = "right" if attention else "left"
    before = None
    for found in figures:
        case = found.case
        block = case.length if attention else case.name
        if before not in (None, block):
            table.add_section()
        before = block
        table.add_row(
            *((case.stored, f"{case.length:,}") if attention else (case.name, case.stored)),
            f"{case.rows:,}" + ("*" if case.name == "shared" else ""),
            _short(1e3 * found.median),
            f"{_short(1e3 * found.p10)} .. {_short(1e3 * found.p90)}",
            _short(case.work.num_bytes / 1e6),
            _short(found.bytes_per_second / 1e9),
            _short(found.operations_per_second / 1e9),
            "-" if found.share is None else f"{100 * found.share:.0f} %",
        )
    return table


def _short(value: float) -> str:
    """Three digits, and three places at the most: 1,234, 12.3, 1.23, 0.012."""
    places = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{places}f}"


def _notes(result: KernelResult) -> Iterator[str]:
    if any(timed.case.name == "shared" for timed in result.timed):
        yield "* One row of each of so many sequences, which share their tokens."
    if result.bandwidth is not None:
        yield f"Read bandwidth in the same run: {result.bandwidth / 1e9:.1f} GB/s."
    for name, limits in result.limits.items():
        if limits.peak is not None:
            peak = limits.peak
            yield f"Matrix peak of {name}: {peak.best / 1e9:,.0f} GFLOP/s ({peak.path})."
    reasons = [reason for limits in result.limits.values() for reason in limits.unmeasured]
    yield from (f"Not measured: {reason}" for reason in dict.fromkeys(reasons))
    if result.short:
        yield "Memory was too little for as many copies as no cache holds; reads may be from one."
