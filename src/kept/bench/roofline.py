"""A speed measurement as a roofline: how much is computed for a byte read, and how fast.

After Williams, Waterman and Patterson, "Roofline: an insightful visual performance model" (2009):
below the ridge a pass is bound by the bandwidth of memory, above it by arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.bench.plot import footer, require_matplotlib
from kept.bench.plot_labels import LABEL_SIZE, Label, place_labels, settle
from kept.bench.speed import SpeedResult
from kept.bench.speed_figures import SpeedFigures
from kept.format import format_count
from kept.machine import Rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROOF, _DECODE, _PROMPT = "0.25", "#0b6e99", "#d1495b"
_SIZE, _DPI = (8.0, 5.6), 150  # inches, and 1200 x 840 pixels
_ROOM, _ROOM_BEFORE = 3.0, 8.0  # factors of empty space: above and right, below and left


@dataclass(frozen=True, slots=True)
class Roof:
    """bandwidth: bytes per second, None where it is not known. peaks: of matrix arithmetic."""

    bandwidth: float | None
    peaks: Sequence[Rate]


def save_roofline(result: SpeedResult, figures: SpeedFigures, path: Path) -> None:
    """Write a PNG of 1200 x 840 pixels. Raises BackendError without matplotlib, or OSError."""
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    subject, points = result.subject, list(_points(result, figures))
    cut = ", interrupted" if result.interrupted else ""
    axes.set_title(
        f"{subject.name} ({format_count(subject.num_parameters)} parameters, "
        f"{subject.weight_format}){cut}",
        fontsize=12,
        fontweight="bold",
    )
    figure.supxlabel(footer(subject, result.num_threads), fontsize=8, color="0.4")
    peak = result.limits.peak
    roof = Roof(result.limits.bandwidth, [] if peak is None else [peak])
    draw_roofline(axes, points, roof)
    settle(figure)
    name_points(axes, points, roof)
    figure.savefig(path, format="png", facecolor="white")


def _points(result: SpeedResult, figures: SpeedFigures) -> Iterator[Label]:
    batch = "" if result.settings.batch == 1 else f" of {result.settings.batch} sequences"
    found = figures.decode
    if found is not None:
        share = found.total.median_share
        limit = "" if share is None else f", {100 * share:.0f} % of the limit"
        yield Label(
            f"decode{batch} at {found.length:,}: {1e3 * found.total.median:.1f} ms a step{limit}",
            found.work.intensity,
            found.operations_per_second,
            _DECODE,
        )
    for prompt in figures.prompts:
        peak = "" if prompt.share is None else f", {100 * prompt.share:.0f} % of the peak"
        yield Label(
            f"prompt of {prompt.tokens:,}{batch}: {prompt.tokens_per_second:,.0f} tokens/s{peak}",
            prompt.work.intensity,
            prompt.operations_per_second,
            _PROMPT,
        )


def draw_roofline(axes: Axes, points: Sequence[Label], roof: Roof) -> None:
    """Draw the roof and the points under it, without a word beside any of them."""
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel("operations per byte read")
    axes.set_ylabel("operations per second")
    _frame(axes, points, roof)
    _draw_roof(axes, roof)
    for point in points:
        axes.plot(point.x, point.y, "o", color=point.colour, markersize=7, zorder=3)
    axes.yaxis.set_major_formatter(_operations)
    axes.yaxis.set_minor_formatter("")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def name_points(axes: Axes, points: Sequence[Label], roof: Roof) -> None:
    """Write what the slope and the points are; to be called when the figure is settled."""
    _name_slope(axes, roof)
    place_labels(axes, points)


def _frame(axes: Axes, points: Sequence[Label], roof: Roof) -> None:
    """Room for the points, the ridges and the roofs."""
    across, up = [p.x for p in points], [p.y for p in points]
    for peak in roof.peaks:
        up.append(peak.best)
        if roof.bandwidth is not None:
            across.append(peak.best / roof.bandwidth)
    axes.set_xlim(min(across) / _ROOM_BEFORE, max(across) * _ROOM)
    axes.set_ylim(min(up) / _ROOM_BEFORE, max(up) * _ROOM)


def _draw_roof(axes: Axes, roof: Roof) -> None:
    left, right = axes.get_xlim()
    bandwidth = roof.bandwidth
    if bandwidth is not None:
        highest = max((peak.best for peak in roof.peaks), default=right * bandwidth)
        end = min(highest / bandwidth, right)
        axes.plot((left, end), (left * bandwidth, end * bandwidth), color=_ROOF, linewidth=1.5)
    for peak in roof.peaks:
        begin = left if bandwidth is None else min(peak.best / bandwidth, right)
        axes.plot((begin, right), (peak.best, peak.best), color=_ROOF, linewidth=1.5)
        axes.annotate(
            f"{_operations(peak.best)} ({peak.path})",
            (right, peak.best),
            xytext=(-4, 4),
            textcoords="offset points",
            ha="right",
            color=_ROOF,
            fontsize=LABEL_SIZE,
        )


def _name_slope(axes: Axes, roof: Roof) -> None:
    """Write the bandwidth along its slope, from where that enters the picture."""
    if roof.bandwidth is None:
        return
    begin = 1.15 * max(axes.get_xlim()[0], axes.get_ylim()[0] / roof.bandwidth)
    ends = [(x, x * roof.bandwidth) for x in (begin, 2 * begin)]
    (x0, y0), (x1, y1) = axes.transData.transform(ends)
    axes.annotate(
        f"read bandwidth {roof.bandwidth / 1e9:.1f} GB/s",
        ends[0],
        xytext=(-2, 4),
        textcoords="offset points",
        rotation=math.degrees(math.atan2(y1 - y0, x1 - x0)),
        rotation_mode="anchor",
        color=_ROOF,
        fontsize=LABEL_SIZE,
    )


def _operations(value: float, _: Any = None) -> str:
    for size, unit in ((1e12, "TFLOP/s"), (1e9, "GFLOP/s"), (1e6, "MFLOP/s")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} FLOP/s"
