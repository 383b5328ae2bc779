"""An experiment as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kept.bench.experiment import Result
from kept.bench.published import PUBLISHED
from kept.bench.subject import Subject
from kept.bench.summary import Summary, Totals, smooth
from kept.format import format_bytes, format_count, format_seconds
from kept.machine import describe_machine

_LENGTHS_SHOWN = 8
_REACH = 4  # neighbours a shown step time is the median of, on either side
_NONE = "-"


def report(result: Result, summary: Summary) -> RenderableType:
    """Everything a reader wants of an experiment, but the raw times."""
    return Group(*_parts(result, summary))


def _parts(result: Result, summary: Summary) -> Iterator[RenderableType]:
    yield Text(_headline(result), style="bold")
    yield Text(machine_line(result.subject, result.num_threads))
    if result.interrupted:
        yield Text("Interrupted: these are the steps measured so far.", style="yellow")
    yield Text()
    yield _totals_table(result, summary)
    if summary.steps_with:
        yield Text()
        yield _length_table(result, summary)
    yield Text()
    yield _published_table(result, summary)
    notes = list(_notes(result, summary))
    if notes:
        yield Text()
        yield from (Text(line) for line in notes)


def _headline(result: Result) -> str:
    settings = result.settings
    return (
        f"{model_line(result.subject)}; {settings.new_tokens:,} new tokens after a prompt of "
        f"{settings.prompt_tokens:,}"
    )


def model_line(subject: Subject) -> str:
    """Which model, and what it takes."""
    weights = "random weights, " if subject.random else ""
    return (
        f"{subject.name}: {weights}{format_count(subject.num_parameters)} parameters, "
        f"{subject.weight_format}, {format_bytes(subject.weight_bytes)}"
    )


def machine_line(subject: Subject, num_threads: int) -> str:
    """Where it was measured."""
    device = subject.model.device
    here = describe_machine().cpu
    if device.type != "cpu":
        return f"on {device}, driven by {here}"
    threads = "1 thread" if num_threads == 1 else f"{num_threads} threads"
    return f"on {here}, {threads}; {subject.kernels}"


def _totals_table(result: Result, summary: Summary) -> Table:
    table = new_table(
        "Time for all tokens", "", "runs", "mean ± std (s)", "median (s)", "tokens/s", "ratio"
    )
    table.add_row("with cache", *_totals_cells(summary.with_cache), "1.0")
    if result.settings.without_cache:
        ratio = _NONE if summary.ratio is None else f"{summary.ratio:.1f}"
        table.add_row("without cache", *_totals_cells(summary.without_cache), ratio)
    return table


def _totals_cells(totals: Totals | None) -> list[str]:
    if totals is None:
        return ["0", _NONE, _NONE, _NONE]
    spread = "" if totals.std is None else f" ± {totals.std:.2f}"
    return [
        str(totals.runs),
        f"{totals.mean:.2f}{spread}",
        f"{totals.median:.2f}",
        f"{totals.tokens_per_second:.1f}",
    ]


def _length_table(result: Result, summary: Summary) -> Table:
    columns = ["length", "with (ms)", "without (ms)", "ratio", "cache in use", "allocated"]
    if not summary.steps_without:
        columns = [columns[0], columns[1], *columns[4:]]
    table = new_table("One step against length (median over runs and neighbouring steps)", *columns)
    # The first step reads the prompt with the cache too; the curve begins at the second.
    cached = smooth(summary.steps_with[1:], _REACH)
    uncached = smooth(summary.steps_without[1:], _REACH)
    for i in _spread(len(cached), _LENGTHS_SHOWN):
        length = summary.lengths[i + 1]
        times = [f"{1e3 * cached[i]:.2f}"]
        if summary.steps_without:
            there = i < len(uncached)
            times.append(f"{1e3 * uncached[i]:.2f}" if there else _NONE)
            times.append(f"{uncached[i] / cached[i]:.1f}" if there else _NONE)
        used = format_bytes(length * result.subject.kv_bytes(1))
        table.add_row(f"{length:,}", *times, used, format_bytes(summary.cache_bytes[i + 1]))
    return table


def _published_table(result: Result, summary: Summary) -> Table:
    table = new_table(
        "Beside published results", "model", "hardware", "new", "with (s)", "without (s)", "ratio"
    )
    table.columns[1].justify = "left"
    own = (summary.with_cache, summary.without_cache)
    table.add_row(
        result.subject.name,
        "here",
        f"{result.settings.new_tokens:,}",
        *(_NONE if totals is None else f"{totals.mean:.2f}" for totals in own),
        _NONE if summary.ratio is None else f"{summary.ratio:.1f}",
        style="bold",
    )
    for entry in PUBLISHED:
        table.add_row(
            entry.what,
            entry.hardware,
            f"{entry.new_tokens:,}",
            f"{entry.with_cache:.2f}",
            f"{entry.without_cache:.2f}",
            f"{entry.ratio:.1f}",
        )
    return table


def _notes(result: Result, summary: Summary) -> Iterator[str]:
    if summary.floor is not None:
        floor = summary.floor
        steps = len(summary.steps_with) - 1
        yield (
            f"Read bandwidth in the same run: {floor.bandwidth / 1e9:.1f} GB/s. A decode step "
            f"reads {format_bytes(floor.weight_bytes)} of weights, and the keys and values so far: "
            f"{1e3 * floor.seconds / steps:.2f} ms at the least."
        )
        yield (
            f"Cached decode reached {100 * floor.share:.0f} % of that limit "
            f"({100 * floor.weight_share:.0f} % counting the weights alone)."
        )
    if summary.prefill is not None:
        prefill = summary.prefill
        yield (
            f"Matrix peak in the same run: {prefill.peak / 1e9:,.0f} GFLOP/s ({prefill.path}). "
            f"Reading {prefill.tokens:,} tokens in one pass took "
            f"{format_seconds(prefill.seconds)} and reached {100 * prefill.share:.0f} % of that "
            "limit."
        )
    yield from (f"Not measured: {reason}" for reason in result.limits.unmeasured)
    if summary.agreeing is not None:
        compared = min(len(t[0].token_ids) for t in (result.of(True), result.of(False)))
        if summary.agreeing == compared:
            yield f"With and without the cache the same {compared:,} tokens were drawn."
        else:
            yield (
                f"With and without the cache the first {summary.agreeing:,} of {compared:,} tokens "
                "are the same; then rounding decided a near tie differently."
            )


def new_table(title: str, *columns: str) -> Table:
    """A table of figures: the first column to the left, the others to the right."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="")
    for index, name in enumerate(columns):
        justify: Literal["left", "right"] = "right" if index else "left"
        table.add_column(name, justify=justify, no_wrap=True)
    return table


def _spread(count: int, shown: int) -> Sequence[int]:
    """At most `shown` indices below `count`, evenly spaced, both ends among them."""
    if count <= shown:
        return range(count)
    return [round(i * (count - 1) / (shown - 1)) for i in range(shown)]
