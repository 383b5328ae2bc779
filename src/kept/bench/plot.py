"""The two curves as a picture: a step's time, and the cache's bytes, against length."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

import kept
from kept.bench.experiment import Result
from kept.bench.subject import Subject
from kept.bench.summary import Summary, smooth
from kept.errors import BackendError
from kept.format import format_bytes, format_count
from kept.machine import describe_machine

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WITH, _WITHOUT, _FAINT = "#0b6e99", "#d1495b", 0.25  # blue and red, told apart by the colour-blind
_SIZE, _DPI = (11.0, 4.8), 150  # inches, and 1650 x 720 pixels
_MIB: Final = 1 << 20


def require_matplotlib() -> None:
    """Raise BackendError, with the remedy, where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise BackendError(
            "a PNG needs matplotlib, which is not here; pip install 'kept-llm[bench]'"
        )


def save_plot(result: Result, summary: Summary, path: Path) -> None:
    """Write a PNG of 1650 x 720 pixels. Raises BackendError without matplotlib, or OSError."""
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    times, sizes = figure.subplots(1, 2, width_ratios=(3, 2))
    figure.suptitle(_title(result), fontsize=12, fontweight="bold")
    _plot_times(times, summary)
    _plot_bytes(sizes, result, summary)
    figure.supxlabel(footer(result.subject, result.num_threads), fontsize=8, color="0.4")
    for axes in (times, sizes):
        axes.set_xlabel("length (tokens)")
        axes.set_xlim(left=0, right=max(summary.lengths, default=1))
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="upper left")
    figure.savefig(path, format="png", facecolor="white")


def _title(result: Result) -> str:
    subject, settings = result.subject, result.settings
    cut = ", interrupted" if result.interrupted else ""
    return (
        f"{subject.name} ({format_count(subject.num_parameters)} parameters, "
        f"{subject.weight_format}): {settings.new_tokens:,} new tokens with and without the cache"
        f"{cut}"
    )


def footer(subject: Subject, num_threads: int) -> str:
    """Where and by what a picture's figures were measured."""
    device = subject.model.device
    where = "" if device.type == "cpu" else f"{device}; "
    return f"{where}{origin_line(num_threads)}"


def origin_line(num_threads: int) -> str:
    """The machine, its threads and the versions, in words."""
    threads = f"{num_threads} thread" + "s" * (num_threads != 1)
    versions = f"kept {kept.__version__}, torch {torch.__version__}"
    return f"{describe_machine().cpu}, {threads}; {versions}"


def _plot_times(axes: Axes, summary: Summary) -> None:
    axes.set_title("Time of one step", fontsize=11)
    axes.set_ylabel("milliseconds per token")
    named = (
        ("without cache", summary.steps_without, summary.without_cache, _WITHOUT),
        ("with cache", summary.steps_with, summary.with_cache, _WITH),
    )
    top = 0.0
    for name, steps, totals, colour in named:
        # The first step reads the prompt, which is no part of either curve.
        values = [1e3 * s for s in steps[1:]]
        if not values:
            continue
        line = smooth(values, max(2, len(values) // 60))
        top = max(top, *line)
        lengths = summary.lengths[1:] or ()
        label = name if totals is None else f"{name}: {totals.mean:.1f} s in all"
        axes.plot(_first(lengths, values), values, color=colour, alpha=_FAINT, linewidth=0.8)
        axes.plot(_first(lengths, line), line, color=colour, linewidth=2, label=label)
    if top:
        axes.set_ylim(0, 1.25 * top)  # single slow steps may leave the picture; room for the legend
    if summary.ratio is not None:
        words = f"{summary.ratio:.1f} times as fast with the cache"
        axes.text(0.98, 0.97, words, transform=axes.transAxes, ha="right", va="top", weight="bold")


def _plot_bytes(axes: Axes, result: Result, summary: Summary) -> None:
    axes.set_title("Memory of the cache", fontsize=11)
    axes.set_ylabel("MiB")
    lengths, each = summary.lengths, result.subject.kv_bytes(1)
    allocated = [b / _MIB for b in summary.cache_bytes]
    used = [n * each / _MIB for n in lengths]
    axes.step(lengths, allocated, where="post", color=_WITH, alpha=0.5, label="allocated")
    axes.fill_between(lengths, used, color=_WITH, alpha=0.15, linewidth=0)
    axes.plot(
        lengths, used, color=_WITH, linewidth=2, label=f"in use: {format_bytes(each)} a token"
    )
    axes.set_ylim(0, 1.25 * max([*allocated, *used], default=1))


def _first(lengths: Sequence[int], values: Sequence[float]) -> Sequence[int]:
    return lengths[: len(values)]
