"""Names on a plot cover neither each other nor a point nor a line."""

from itertools import combinations

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kept.bench.plot_labels import Label, place_labels, settle

CROWDED = [(90, 3.1e11), (94, 3.0e11), (190, 3.3e11), (380, 3.4e11), (770, 3.5e11), (1500, 3.5e11)]


def drawn(points: list[tuple[float, float]]) -> Axes:
    figure = Figure(figsize=(8, 5.6), layout="constrained")
    axes = figure.subplots()
    axes.set(xscale="log", yscale="log", xlim=(1, 6000), ylim=(4e10, 2e12))
    axes.plot((1, 15), (4e10, 6e11), color="0.2")
    axes.plot((15, 6000), (6e11, 6e11), color="0.2")
    for point in points:
        axes.plot(*point, "o")
    settle(figure)
    place_labels(axes, [Label("prompt of so many: so fast", *point, "red") for point in points])
    return axes


@pytest.mark.parametrize("points", [CROWDED[:1], CROWDED[:2], CROWDED])
def test_names_are_apart(points: list[tuple[float, float]]) -> None:
    axes = drawn(points)
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    assert len(boxes) == len(points)
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    for box in boxes:
        assert not any(box.contains(*axes.transData.transform(point)) for point in points)
        for line in axes.lines:
            path = line.get_path().transformed(line.get_transform())
            assert not path.intersects_bbox(box, filled=False)
