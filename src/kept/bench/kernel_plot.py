"""Kernels as two rooflines: linear layers, and attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from kept.bench.kernel_report import KernelFigures
from kept.bench.kernels import KernelResult
from kept.bench.plot import origin_line, require_matplotlib
from kept.bench.plot_labels import Label, settle
from kept.bench.roofline import Roof, draw_roofline, name_points

# Told apart by the colour-blind (Okabe and Ito, 2008).
_COLOURS = ("#0b6e99", "#d1495b", "#009e73", "#b07000", "#7b4fa3")
_WIDTH, _HEIGHT, _DPI = 8.0, 6.4, 150  # inches of a panel
_TITLES = {
    "linear": "Linear layers, all that were measured together",
    "attention": "Attention",
}


def save_kernels(result: KernelResult, figures: Sequence[KernelFigures], path: Path) -> None:
    """Write a PNG of 1200 x 960 pixels a panel. Raises BackendError without matplotlib, or OSError.

    Of linear layers a point stands for all layers of one format and count of rows, as a pass over
    the model has them.
    """
    require_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    panels = {kind: list(_points(figures, kind)) for kind in _TITLES}
    panels = {kind: points for kind, points in panels.items() if points}
    figure = Figure(figsize=(_WIDTH * len(panels), _HEIGHT), dpi=_DPI, layout="constrained")
    cut = ", interrupted" if result.interrupted else ""
    figure.suptitle(f"Kernels of {result.settings.shape}, {result.isa}{cut}", weight="bold")
    figure.supxlabel(origin_line(result.num_threads), fontsize=8, color="0.4")
    drawn = []
    for axes, (kind, points) in zip(figure.subplots(1, len(panels), squeeze=False)[0],
                                    panels.items(), strict=True):  # fmt: skip
        some = [found for found in figures if found.case.kind == kind]
        names = {found.case.arithmetic for found in some}
        peaks = [x.peak for name, x in result.limits.items() if name in names and x.peak]
        roof = Roof(result.bandwidth, peaks)
        draw_roofline(axes, points, roof)
        colours = _colours(some)
        dots = [Line2D([], [], color=c, marker="o", linestyle="") for c in colours.values()]
        axes.set_title(_TITLES[kind], fontsize=11, pad=24)
        axes.legend(
            dots, list(colours), frameon=False, ncols=len(dots), fontsize=9,
            loc="lower center", bbox_to_anchor=(0.5, 1.0), borderaxespad=0.2,
        )  # fmt: skip
        drawn.append((axes, points, roof))
    settle(figure)
    for axes, points, roof in drawn:
        name_points(axes, points, roof)
    figure.savefig(path, format="png", facecolor="white")


def _colours(figures: Sequence[KernelFigures]) -> dict[str, str]:
    stored = dict.fromkeys(found.case.stored for found in figures)
    return dict(zip(stored, _COLOURS, strict=False))


def _points(figures: Sequence[KernelFigures], kind: str) -> Iterator[Label]:
    some = [found for found in figures if found.case.kind == kind]
    colours = _colours(some)
    together: dict[tuple[str, int, int | None, bool], list[KernelFigures]] = {}
    for found in some:
        case = found.case
        shared = case.name == "shared"
        together.setdefault((case.stored, case.rows, case.length, shared), []).append(found)
    for (stored, rows, length, shared), group in together.items():
        seconds = sum(found.median for found in group)
        operations = sum(found.case.work.operations for found in group)
        num_bytes = sum(found.case.work.num_bytes for found in group)
        floors = [found.floor for found in group if found.floor is not None]
        share = f": {100 * sum(floors) / seconds:.0f} %" if floors else ""
        words = f"{rows:,} row" + "s" * (rows != 1)
        if shared:
            words = f"{rows:,} sharing {length:,}"
        elif length is not None:
            words = f"{length:,}" if rows == 1 else f"{words} at {length:,}"
        x, y = operations / num_bytes, operations / seconds
        yield Label(f"{words}{share}", x, y, colours[stored])
