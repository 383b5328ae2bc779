"""Sums over whole rows, many at once, and draws from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kept.sampling.history import Ids
from kept.sampling.weights import CHUNK, Floats, Whole, places, weights_of


def draw_from_rows(
    rows: Sequence[Floats],
    peaks: Sequence[float],
    temperatures: Sequence[float],
    sums: Whole,
    uniform: Sequence[float],
) -> Ids:
    """Draw a token of each row (V,) of scores over its temperature, as `draw` does.

    peaks, temperatures and sums as `sums_of_chunks` has them; uniform: (rows,) in [0, 1). Only the
    chunk that the number falls into is weighed again.
    """
    upto = np.cumsum(sums, axis=1)
    place = places(upto[:, -1], np.array(uniform))
    chunk = (upto <= place[:, None]).sum(axis=1)
    each = np.arange(len(rows))
    place -= upto[each, chunk] - sums[each, chunk]
    scores = np.full((len(rows), CHUNK), -np.inf, dtype=np.float32)
    for found, row, first in zip(scores, rows, (chunk * CHUNK).tolist(), strict=True):
        part = row[first : first + CHUNK]
        found[: part.size] = part
    scaled = scores / np.array(temperatures, dtype=np.float32)[:, None]
    weights = weights_of(scaled, np.array(peaks, dtype=np.float32)[:, None])
    index = (np.cumsum(weights, axis=1) <= place[:, None]).sum(axis=1)
    found_tokens: Ids = chunk * CHUNK + index
    return found_tokens
