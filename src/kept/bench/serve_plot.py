"""A measurement of serving as a picture over time: requests, blocks of the pool, waiting times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Final

from kept.bench.plot import footer, require_matplotlib
from kept.bench.serve_figures import ServeFigures
from kept.bench.serve_record import Moment, ServeResult
from kept.format import format_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE, _DPI = (11.0, 8.0), 150  # inches, and 1650 x 1200 pixels
_TITLE_WIDTH = 90  # letters in a line of it
_RUNNING, _WAITING, _FINDABLE = "#0b6e99", "#d1495b", "#7fb7cf"
_TENANTS: Final = ("#0b6e99", "#d1495b", "#6a994e", "#8d6a9f")


def save_timeline(result: ServeResult, figures: ServeFigures, path: Path) -> None:
    """Write a PNG of 1650 x 1200 pixels. Raises BackendError without matplotlib, or OSError."""
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    requests, blocks, waits = figure.subplots(3, 1, sharex=True, height_ratios=(2, 2, 3))
    figure.suptitle(_title(result, figures), fontsize=12, fontweight="bold")
    _plot_requests(requests, result.record.moments)
    _plot_blocks(blocks, result)
    _plot_waits(waits, result)
    waits.set_xlabel("seconds since the start")
    waits.set_xlim(0, max(result.record.seconds, 1e-3))
    figure.supxlabel(footer(result.subject, result.num_threads), fontsize=8, color="0.4")
    for axes in (requests, blocks, waits):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="png", facecolor="white")


def _title(result: ServeResult, figures: ServeFigures) -> str:
    subject = result.subject
    cut = ", interrupted" if result.interrupted else ""
    return (
        f"{subject.name} ({format_count(subject.num_parameters)} parameters, "
        f"{subject.weight_format}): {figures.drawn_per_second:,.1f} tokens/s drawn, "
        f"{figures.tokens_per_second:,.1f} with those of the prompts{cut}\n"
        f"{fill(result.settings.workload, _TITLE_WIDTH)}"
    )


def _plot_requests(axes: Axes, moments: Iterable[Moment]) -> None:
    axes.set_ylabel("requests")
    some = list(moments)
    times = [moment.at for moment in some]
    running = [moment.load.running for moment in some]
    waiting = [moment.load.waiting for moment in some]
    _stack(axes, times, {"running": (running, _RUNNING), "waiting": (waiting, _WAITING)})
    axes.set_ylim(0, 1.05 * max((a + b for a, b in zip(running, waiting, strict=True)), default=1))
    _legend(axes)


def _stack(
    axes: Axes, times: Sequence[float], parts: Mapping[str, tuple[Sequence[int], str]]
) -> None:
    """Counts one upon the other, each with its colour."""
    counts, colors = zip(*parts.values(), strict=True)
    axes.stackplot(
        times, *counts, labels=tuple(parts), colors=colors, step="post", alpha=0.75, linewidth=0
    )


def _plot_blocks(axes: Axes, result: ServeResult) -> None:
    """Blocks by who holds them; where there is no pool, the memory of the process."""
    moments, record = result.record.moments, result.record
    times = [moment.at for moment in moments]
    if not record.num_blocks:
        known = [(m.at, m.resident / (1 << 30)) for m in moments if m.resident is not None]
        axes.set_ylabel("memory (GiB)")
        axes.plot(*zip(*known, strict=True) if known else ([], []), color=_RUNNING)
        axes.set_ylim(bottom=0)
        return
    used = [moment.load.used_blocks for moment in moments]
    findable = [moment.load.findable_blocks for moment in moments]
    top = max((a + b for a, b in zip(used, findable, strict=True)), default=0)
    axes.set_ylabel("blocks of 64 tokens")
    _stack(
        axes,
        times,
        {
            "of running requests": (used, _RUNNING),
            "of texts that can be found again": (findable, _FINDABLE),
        },
    )
    if top > record.num_blocks / 2:
        axes.axhline(record.num_blocks, color="0.3", linewidth=1, linestyle="--", label="the pool")
    axes.set_ylim(0, 1.1 * (record.num_blocks if top > record.num_blocks / 2 else max(top, 1)))
    _legend(axes)


def _plot_waits(axes: Axes, result: ServeResult) -> None:
    """Every gap where it ended, and every first token with the time it took to come."""
    axes.set_ylabel("seconds waited for a token")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    served = [found for found in result.record.served.values() if found.token_times]
    tenants = sorted({found.arrival.tenant for found in served})
    for tenant, colour in zip(tenants, _TENANTS, strict=False):
        some = [found for found in served if found.arrival.tenant == tenant]
        gaps = [(b, b - a) for found in some for a, b in pairwise(found.token_times)]
        firsts = [(f.token_times[0], f.token_times[0] - f.due) for f in some]
        who = f" ({tenant or 'others'})" if len(tenants) > 1 else ""
        if gaps:
            axes.plot(
                *zip(*gaps, strict=True), ".", color=colour, markersize=3, alpha=0.35,
                markeredgewidth=0,
            )  # fmt: skip
            # What the legend shows is larger than the points, of which there are many.
            axes.plot([], [], "o", color=colour, markersize=4, label=f"between two tokens{who}")
        axes.plot(
            *zip(*firsts, strict=True), "^", color=colour, markersize=6, markeredgecolor="white",
            markeredgewidth=0.6, label=f"first token{who}",
        )  # fmt: skip
    for bound in result.settings.bounds:
        axes.axhline(bound.seconds, color="0.3", linewidth=1, linestyle="--")
        axes.annotate(
            f"{bound.figure} {bound.seconds:g} s", (1, bound.seconds), fontsize=8, color="0.3",
            xycoords=("axes fraction", "data"), ha="right", va="bottom",
        )  # fmt: skip
    _legend(axes)


def _legend(axes: Axes) -> None:
    """In one line above the axes, where it covers nothing."""
    axes.legend(
        ncols=4, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, frameon=False,
        fontsize=9,
    )  # fmt: skip
