"""Served requests as text for a terminal, and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kept.bench.json_report import header
from kept.bench.serve_figures import ServeFigures, Spread, TenantFigures
from kept.bench.serve_record import Moment, Served, ServeResult
from kept.bench.tables import machine_line, model_line, new_table
from kept.format import format_bytes, format_seconds

_NAMES: Final = {
    "ttft": "first token",
    "tpot": "each further token",
    "gap": "between two tokens",
    "e2e": "whole request",
    "queue": "until admitted",
}


def serve_report(result: ServeResult, figures: ServeFigures) -> RenderableType:
    """Everything a reader wants of a measurement, but the raw times."""
    return Group(*_parts(result, figures))


def serve_json(result: ServeResult, figures: ServeFigures) -> dict[str, Any]:
    """A JSON-ready report. Times in seconds, sizes in bytes; `format` counts its layout."""
    record = result.record
    rates = ("requests_per_second", "drawn_per_second", "tokens_per_second", "share")
    return {
        "benchmark": "serve",
        "interrupted": result.interrupted,
        **header(result.subject, result.num_threads),
        "settings": dataclasses.asdict(result.settings),
        "capacity": result.capacity,
        "figures": dataclasses.asdict(figures) | {name: getattr(figures, name) for name in rates},
        "num_blocks": record.num_blocks,
        "bandwidth": [dataclasses.asdict(rate) for rate in result.limits.bandwidths],
        "matrix_peak": [dataclasses.asdict(rate) for rate in result.limits.peaks],
        "unmeasured": result.limits.unmeasured,
        "requests": [_request(i, record.served[i]) for i in sorted(record.served)],
        "step_times": [[round(x, 6) for x in dataclasses.astuple(step)] for step in record.passes],
        "moments": [_moment(moment) for moment in record.moments],
    }


def _request(index: int, found: Served) -> dict[str, Any]:
    return {
        "index": index,
        "tenant": found.arrival.tenant,
        "prompt_tokens": len(found.token_ids) - len(found.token_times),
        "new_tokens": found.arrival.new_tokens,
        "due": round(found.due, 6),
        "token_times": [round(at, 6) for at in found.token_times],
        "ended": None if found.ended is None else round(found.ended, 6),
        "error": found.error,
        **dataclasses.asdict(found.given),
    }


def _moment(moment: Moment) -> dict[str, Any]:
    return {
        "at": round(moment.at, 6),
        **dataclasses.asdict(moment.load),
        "resident": moment.resident,
    }


def _parts(result: ServeResult, figures: ServeFigures) -> Iterator[RenderableType]:
    settings = result.settings
    cache = "" if settings.kv_dtype is None else f", {settings.kv_dtype} cache"
    yield Text(f"{model_line(result.subject)}{cache}", style="bold")
    yield Text(f"{settings.workload}; {settings.max_batch_size} at a time at most", style="bold")
    yield Text(machine_line(result.subject, result.num_threads))
    if result.interrupted:
        yield Text("Interrupted: this is what was measured so far.", style="yellow")
    yield Text()
    yield _latency_table(figures.total)
    if figures.tenants:
        yield Text()
        yield _tenant_table(figures)
    yield Text()
    yield from (Text(line) for line in _notes(result, figures))
    yield from (Text(line) for line in _limit_notes(result, figures))


def _latency_table(found: TenantFigures) -> Table:
    table = new_table("Seconds to wait", "", "count", "p50", "p90", "p99", "max")
    for figure, name in _NAMES.items():
        spread: Spread | None = getattr(found, figure)
        if spread is not None:
            values = (spread.p50, spread.p90, spread.p99, spread.max)
            table.add_row(name, f"{spread.count:,}", *(f"{value:.3f}" for value in values))
    return table


def _tenant_table(figures: ServeFigures) -> Table:
    columns = ("done", "first token p50", "p99", "between p50", "p99", "max", "drawn/s", "cached")
    table = new_table("Each tenant", "", *columns)
    for found in figures.tenants:
        ttft, gap = found.ttft, found.gap
        seconds = (
            *((ttft.p50, ttft.p99) if ttft else (None, None)),
            *((gap.p50, gap.p99, gap.max) if gap else (None, None, None)),
        )
        table.add_row(
            found.tenant or "others",
            f"{found.num_done} of {found.num_requests}",
            *("-" if value is None else f"{value:.3f}" for value in seconds),
            f"{found.drawn_tokens / figures.seconds:,.1f}",
            _percent(found.cached_tokens, found.prompt_tokens),
        )
    return table


def _notes(result: ServeResult, figures: ServeFigures) -> Iterator[str]:
    total, record = figures.total, result.record
    yield (
        f"{total.num_done} of {total.num_requests} requests in {format_seconds(figures.seconds)}: "
        f"{figures.requests_per_second:.2f} requests/s, {figures.drawn_per_second:,.1f} tokens/s "
        f"drawn, {figures.tokens_per_second:,.1f} with those of the prompts."
    )
    if result.capacity is not None:
        yield f"Capacity, measured before: {result.capacity:.2f} requests/s."
    if total.well_served is not None:
        bounds = ", ".join(f"{b.figure} {b.seconds:g} s" for b in result.settings.bounds)
        yield (
            f"Well served ({bounds} at most): {total.well_served} of {total.num_requests} "
            f"requests, {total.well_served / figures.seconds:.2f} a second."
        )
    yield _cache_note(total)
    if total.parked:
        yield f"Parked for want of room: {total.parked} times."
    if record.num_blocks:
        resident = figures.peak_resident
        memory = "" if resident is None else f"; {format_bytes(resident)} of memory in all"
        yield f"At most {figures.peak_blocks:,} of {record.num_blocks:,} blocks in use{memory}."
    if total.num_failed:
        errors = (record.served[i].error for i in sorted(record.served))
        first = next(error for error in errors if error is not None)
        yield f"Failed: {total.num_failed} requests; the first: {first}"


def _cache_note(total: TenantFigures) -> str:
    sources = ", ".join(f"{name} {count:,}" for name, count in sorted(total.cached.items()))
    return (
        f"{total.cached_tokens:,} of {total.prompt_tokens:,} prompt tokens were cached "
        f"({_percent(total.cached_tokens, total.prompt_tokens)}{sources and '; ' + sources}), and "
        f"{total.computed_tokens:,} tokens computed."
    )


def _limit_notes(result: ServeResult, figures: ServeFigures) -> Iterator[str]:
    limits, job = result.limits, figures.job
    if figures.floor is not None and limits.bandwidth is not None and limits.peak is not None:
        yield (
            f"The job: {job.operations / 1e9:,.0f} GFLOP for {job.distinct_tokens:,} distinct "
            f"tokens, and {format_bytes(job.num_bytes)} in {job.num_passes:,} passes or more: "
            f"{format_seconds(figures.floor)} at the least, at {limits.bandwidth / 1e9:.1f} GB/s "
            f"and {limits.peak.best / 1e9:,.0f} GFLOP/s ({limits.peak.path}) in the same run."
        )
    if figures.share is not None:
        yield (
            f"{figures.num_passes:,} steps took {format_seconds(figures.busy)}; the limit is "
            f"{100 * figures.share:.0f} % of that."
        )
    yield f"Outside the kernels: {100 * figures.outside_share:.1f} % of the steps' time."
    yield from (f"Not measured: {reason}" for reason in limits.unmeasured)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "-"
