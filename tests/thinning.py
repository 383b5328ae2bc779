"""How much of a law a run takes: with KEPT_TEST_FULL=1 all of it, else what finds the same faults.

A grid of several axes is thinned so that each value of an axis still meets each value of every
other, and a law of random examples draws fewer of them. Nothing is left to chance: a run without
the variable takes the same part every time.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import pytest

LEAST = 8  # cells of a grid that is thinned
FULL = os.environ.get("KEPT_TEST_FULL") == "1"


def examples(usual: int, full: int) -> int:
    """How many examples to draw of `full` that a whole run draws."""
    return full if FULL else usual


def in_part(*places: int, out_of: int) -> bool:
    """Whether the cell at these places on its axes belongs to the part that a run takes.

    One of `out_of` cells on each line does, so that every combination of values on all axes but
    one is there, if that one has so many values.
    """
    return FULL or sum(places) % out_of == 0


def cells(*axes: Sequence[Any], out_of: int) -> list[tuple[Any, ...]]:
    """The cells of that part of a grid, of which any two axes have every combination, as long as
    all others together have enough values."""
    places = product(*(range(len(axis)) for axis in axes))
    return [
        cell for at, cell in zip(places, product(*axes), strict=True) if in_part(*at, out_of=out_of)
    ]


def left_out(items: Sequence[pytest.Item]) -> set[pytest.Item]:
    """Those of a test's grid that a run leaves: every other cell, by turns that keep step with no
    axis, so that each value of an axis still meets half of those of every other. Of a grid of
    instruction sets two that are next to each other take all cells between them, as they share
    most of their code."""
    grids: dict[object, list[pytest.Function]] = defaultdict(list)
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            grids[item.path, item.originalname].append(item)
    return {item for cells in grids.values() for item in _left_of(cells)}


def _left_of(cells: Sequence[pytest.Function]) -> Iterator[pytest.Function]:
    axes = _axes_of(cells)
    if len(axes) < 2 or len(cells) < LEAST:
        return
    for item, *at in zip(cells, *axes, strict=True):
        if sum(place.bit_count() for place in at) % 2:
            yield item


def _axes_of(cells: Sequence[pytest.Function]) -> set[tuple[int, ...]]:
    """Of each axis of a grid the places on it that its cells have; parameters that change together
    are one."""
    names = cells[0].callspec.params
    found = {tuple(cell.callspec.indices[name] for cell in cells) for name in names}
    return {axis for axis in found if len(set(axis)) > 1}
