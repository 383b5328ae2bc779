"""The slopes of ALiBi's bias by distance, as families choose them."""

from __future__ import annotations

import math


def slopes_of(heads: int) -> tuple[float, ...]:
    """Of BLOOM and Falcon: 2 ** (-8 i / H) for H a power of 2; heads above one take every other
    slope of twice as many. Source: Press et al. 2022, and its authors' code."""
    whole = 2 ** math.floor(math.log2(heads))
    rest = _row(2 * whole, 8.0)[::2][: heads - whole]
    return tuple(_row(whole, 8.0) + rest)


def mpt_slopes(heads: int, largest: float) -> tuple[float, ...]:
    """Of MPT (config `alibi_bias_max`): of the next power of 2, every other one first."""
    whole = 2 ** math.ceil(math.log2(heads))
    row = _row(whole, largest)
    return tuple(row if whole == heads else (row[1::2] + row[::2])[:heads])


def _row(heads: int, largest: float) -> list[float]:
    return [2.0 ** (-largest * (i + 1) / heads) for i in range(heads)]
