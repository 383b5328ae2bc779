"""Names beside points of a plot, placed so that none covers another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

LABEL_SIZE = 9  # points of type
_STEPS, _STEP = 24, 7.0  # places tried on either side of a point, and points between them
_MARKER = 6.0  # pixels that a point reaches from its place
_NEAR = 12.0  # a name that lies further off gets a line to its point

Offset = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Label:
    """A name, the point it belongs to in the axes' units, and its colour."""

    text: str
    x: float
    y: float
    colour: str


def settle(figure: Figure) -> None:
    """Lay the figure out and leave it so: from here on places in pixels hold."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def place_labels(axes: Axes, labels: Sequence[Label]) -> None:
    """Write every name where it covers no other text, no point and no line of the axes.

    To be called when all else is drawn and settled. Where there is no such place, the last one
    tried is taken.
    """
    points = [axes.transData.transform((label.x, label.y)) for label in labels]
    lines = [line.get_path().transformed(line.get_transform()) for line in axes.lines]
    frame = axes.get_window_extent()
    # Slanted text runs along a line, which is clear of names already; its box is not its shape.
    taken = [text.get_window_extent() for text in axes.texts if not text.get_rotation()]

    def free(box: Bbox) -> bool:
        return (
            frame.x0 <= box.x0
            and box.x1 <= frame.x1
            and frame.y0 <= box.y0
            and not any(box.overlaps(other) for other in taken)
            and not any(box.padded(_MARKER).contains(x, y) for x, y in points)
            and not any(line.intersects_bbox(box, filled=False) for line in lines)
        )

    for label in sorted(labels, key=lambda label: -label.y):
        text = axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=(0, 0),
            textcoords="offset points",
            color=label.colour,
            fontsize=LABEL_SIZE,
        )
        offset: Offset = (0.0, 0.0)
        for offset in _places():
            text.set(position=offset, horizontalalignment="left" if offset[0] > 0 else "right")
            if free(text.get_window_extent().padded(3)):
                break
        taken.append(text.get_window_extent().padded(2))
        if abs(offset[1]) > _NEAR:
            _lead(axes, label, offset)


def _places() -> Iterator[Offset]:
    """Offsets from a point, the nearest first; below it before above."""
    for step in chain.from_iterable((n, -n) for n in range(_STEPS)):
        for side in (9.0, -9.0):
            yield side, -3.0 - _STEP * step


def _lead(axes: Axes, label: Label, offset: Offset) -> None:
    axes.annotate(
        "",
        (label.x, label.y),
        xytext=(offset[0], offset[1] + 3),
        textcoords="offset points",
        arrowprops={"arrowstyle": "-", "color": label.colour, "linewidth": 0.6, "alpha": 0.6},
    )
