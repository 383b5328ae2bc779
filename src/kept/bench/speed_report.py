"""A speed measurement as text for a terminal, and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kept.bench.json_report import header
from kept.bench.speed import SpeedResult, SpeedTrace
from kept.bench.speed_figures import Decode, DecodeFigures, SpeedFigures
from kept.bench.tables import machine_line, model_line, new_table
from kept.bench.work import Costs
from kept.format import format_bytes

_NONE = "-"


def speed_report(result: SpeedResult, figures: SpeedFigures) -> RenderableType:
    """Everything a reader wants of a measurement, but the raw times."""
    return Group(*_parts(result, figures))


def speed_json(benchmark: str, result: SpeedResult, figures: SpeedFigures) -> dict[str, Any]:
    """A JSON-ready report. Times in seconds, sizes in bytes; `format` counts its layout."""
    return {
        "benchmark": benchmark,
        "interrupted": result.interrupted,
        **header(result.subject, result.num_threads),
        "settings": dataclasses.asdict(result.settings),
        "kv_bytes_per_token": Costs.of(result.subject.model, result.settings.kv_dtype).kv_bytes(1),
        "bandwidth": [dataclasses.asdict(rate) for rate in result.limits.bandwidths],
        "matrix_peak": [dataclasses.asdict(rate) for rate in result.limits.peaks],
        "unmeasured": result.limits.unmeasured,
        "prompts": [dataclasses.asdict(found) for found in figures.prompts],
        "decode": None if figures.decode is None else dataclasses.asdict(figures.decode),
        "runs": [_raw(trace) for trace in result.traces if trace.prompt_seconds is not None],
    }


def _raw(trace: SpeedTrace) -> dict[str, Any]:
    return {
        "prompt_tokens": trace.prompt_tokens,
        "prompt_seconds": trace.prompt_seconds,
        "step_tokens": [len(step.lengths) for step in trace.steps],
        "step_lengths": [sum(step.lengths) for step in trace.steps],
        "step_seconds": [round(step.seconds, 9) for step in trace.steps],
        "model_seconds": [round(step.model_seconds, 9) for step in trace.steps],
    }


def _parts(result: SpeedResult, figures: SpeedFigures) -> Iterator[RenderableType]:
    yield Text(_headline(result), style="bold")
    yield Text(machine_line(result.subject, result.num_threads))
    if result.interrupted:
        yield Text("Interrupted: this is what was measured so far.", style="yellow")
    if figures.decode is not None:
        yield Text()
        yield _decode_table(figures.decode)
    yield Text()
    yield _prompt_table(figures)
    yield Text()
    yield from (Text(line) for line in _notes(result, figures))


def _headline(result: SpeedResult) -> str:
    settings = result.settings
    batch = "" if settings.batch == 1 else f"{settings.batch:,} sequences; "
    cache = "" if settings.kv_dtype is None else f"{settings.kv_dtype} cache; "
    prompts = ", ".join(f"{tokens:,}" for tokens in settings.prompts)
    new = "" if settings.new_tokens == 1 else f", {settings.new_tokens:,} new tokens"
    return f"{model_line(result.subject)}; {cache}{batch}prompt of {prompts}{new}"


def _decode_table(found: DecodeFigures) -> Table:
    table = new_table(
        "Decode", "run", "steps", "median (ms)", "p10 .. p90 (ms)", "tokens/s", "of the limit"
    )
    for index, run in enumerate(found.runs):
        table.add_row(str(index + 1), *_decode_cells(run))
    if len(found.runs) > 1:
        table.add_row("all", *_decode_cells(found.total), style="bold")
    return table


def _decode_cells(run: Decode) -> list[str]:
    return [
        f"{run.num_steps:,}",
        f"{1e3 * run.median:.2f}",
        f"{1e3 * run.p10:.2f} .. {1e3 * run.p90:.2f}",
        f"{run.tokens_per_second:.1f}",
        _percent(run.share),
    ]


def _prompt_table(figures: SpeedFigures) -> Table:
    columns = ("prompt", "runs", "median (ms)", "best (ms)", "tokens/s", "GFLOP/s", "of the peak")
    table = new_table("Reading the prompt", *columns)
    table.columns[0].justify = "right"
    for found in figures.prompts:
        table.add_row(
            f"{found.tokens:,}",
            str(len(found.seconds)),
            f"{1e3 * found.median:.1f}",
            f"{1e3 * min(found.seconds):.1f}",
            f"{found.tokens_per_second:,.1f}",
            f"{found.operations_per_second / 1e9:,.1f}",
            _percent(found.share),
        )
    return table


def _notes(result: SpeedResult, figures: SpeedFigures) -> Iterator[str]:
    limits = result.limits
    if figures.decode is not None:
        yield from _decode_notes(result, figures.decode)
    elif limits.bandwidth is not None:
        yield f"Read bandwidth in the same run: {limits.bandwidth / 1e9:.1f} GB/s."
    if limits.peak is not None:
        yield (
            f"Matrix peak in the same run: {limits.peak.best / 1e9:,.0f} GFLOP/s "
            f"({limits.peak.path})."
        )
    yield from (f"Not measured: {reason}" for reason in limits.unmeasured)


def _decode_notes(result: SpeedResult, found: DecodeFigures) -> Iterator[str]:
    total, bandwidth = found.total, result.limits.bandwidth
    if bandwidth is not None and total.floor is not None and total.median_share is not None:
        by_reading = total.floor * bandwidth < 1.001 * found.work.num_bytes
        yield (
            f"Read bandwidth in the same run: {bandwidth / 1e9:.1f} GB/s. A step at length "
            f"{found.length:,} reads {format_bytes(found.work.weight_bytes)} of weights and "
            f"{format_bytes(found.work.kv_bytes)} of keys and values"
            f"{'' if by_reading else ', and is bound by its arithmetic'}: "
            f"{1e3 * total.floor:.2f} ms at the least."
        )
        yield f"The median step reached {_percent(total.median_share)} of that limit."
    yield (
        f"Outside the kernels: {1e6 * total.outside:,.0f} µs of a step, "
        f"{100 * total.outside_share:.1f} %."
    )


def _percent(share: float | None) -> str:
    return _NONE if share is None else f"{100 * share:.0f} %"
