"""What a draw sums: for each token a whole number in proportion to its probability.

Whole numbers have the same sum in any order, so a token's chance, and the edge of `top_p`, do not
depend on whether a whole row was read, a chunk of it, or its few likeliest tokens, nor on threads
or instructions. The highest score of a row, its peak, weighs 2**42; a token e**-29.8 times as
likely as that, or less, weighs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from kept.sampling import kernels

Floats = npt.NDArray[np.float32]
Whole = npt.NDArray[np.int64]

CHUNK: Final = 256  # tokens of a row that share a sum
_BITS: Final = 42
PEAK: Final = 1 << _BITS  # what the highest score of a row weighs
_LOW = np.float32(-32.0)
_LOG2_E = np.float32(1.44269504088896341)
_LN_2 = np.float32(0.693359375), np.float32(-2.12194440e-4)  # in two parts
_POWERS = tuple(
    np.float32(c)
    for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1)
)
_HALF, _ONE = np.float32(5.0000001201e-1), np.float32(1.0)


def weights_of(scores: Floats, peak: Floats | np.float32) -> Whole:
    """Weigh `scores`, of any shape, fp32, none NaN or above `peak`, which is finite.

    `native/weigh.h` does the same operations in the same order, and finds the same bits. The
    exponential is a polynomial after Cephes (S. L. Moshier), right to 2e-7 of itself.
    """
    x: Floats = np.maximum(scores - peak, _LOW)
    n = np.rint(x * _LOG2_E)
    r = x - n * _LN_2[0]
    r = r - n * _LN_2[1]
    p = np.full_like(r, _POWERS[0])
    for power in _POWERS[1:]:
        p = p * r + power
    p = p * r + _HALF
    p = p * (r * r) + r + _ONE
    raised: Floats = (p.view(np.int32) + (n.astype(np.int32) + _BITS << 23)).view(np.float32)
    whole: Whole = np.rint(raised.astype(np.float64)).astype(np.int64)
    return whole


def sums_of_chunks(
    rows: Sequence[Floats], peaks: Sequence[float], temperatures: Sequence[float]
) -> Whole:
    """Return the sums (rows, chunks) of the weights of scores (V,) over their temperatures.

    rows: fp32, contiguous, none NaN. peaks: the largest of each over its temperature, finite.
    """
    sums = np.empty((len(rows), -(-rows[0].size // CHUNK)), dtype=np.int64)
    if kernels.weigh is not None:
        kernels.weigh(list(rows), list(peaks), list(temperatures), sums)
        return sums
    starts = np.arange(0, rows[0].size, CHUNK)
    for found, row, peak, temperature in zip(sums, rows, peaks, temperatures, strict=True):
        scaled = row if temperature == 1.0 else row / np.float32(temperature)
        np.add.reduceat(weights_of(scaled, np.float32(peak)), starts, out=found)
    return sums


def places(totals: Whole, uniform: npt.NDArray[np.float64]) -> Whole:
    """Where in [0, total) a number `uniform` in [0, 1) falls; both of any one shape."""
    found: Whole = np.minimum((uniform * totals).astype(np.int64), totals - 1)
    return found


def num_in_nucleus(
    weights: Whole, total: Whole | int, mass: npt.NDArray[np.float64] | float
) -> Whole:
    """How many of `weights` (..., n), the largest first, it takes to reach `mass` of `total`.

    n where they do not reach it. A token counts if those before it weigh less.
    """
    before = np.cumsum(weights, axis=-1) - weights
    wanted = np.asarray(mass * np.asarray(total, dtype=np.float64))
    found: Whole = (before < wanted[..., None]).sum(axis=-1)
    return found
