"""How much of a law a run takes: with KEPT_TEST_FULL=1 all of it, else what finds the same faults.

A grid of several axes is thinned so that each value of an axis still meets each value of every
other, and a law of random examples draws fewer of them. Nothing is left to chance: a run without
the variable takes the same part every time.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest

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
    """Those of a grid of instruction sets that a run leaves: every other cell, by turns that keep
    step with no axis. Two sets that are next to each other share most of their code, and take all
    cells between them."""
    grids: dict[object, dict[str, list[pytest.Item]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        of = getattr(item, "callspec", None)
        if of and "isa" in of.params:
            others = repr([value for name, value in of.params.items() if name != "isa"])
            grids[item.path, item.name.partition("[")[0]][others].append(item)
    return {
        item
        for cells in grids.values()
        for number, cell in enumerate(cells.values())
        for isa, item in enumerate(cell)
        if len(cells) >= 4 and (number.bit_count() + isa) % 2
    }
