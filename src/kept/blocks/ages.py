"""How old blocks were when they made room for others."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Final

# Seconds; those of vLLM's histograms of the same.
BOUNDS: Final = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
    *(10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0),
)


@dataclass(slots=True)
class Histogram:
    """Times by size. counts: of those up to each of `BOUNDS` and beyond the one before it, and last
    of those beyond all. total: their sum."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    total: float = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        """Count one, or several of the same."""
        self.counts[bisect_left(BOUNDS, seconds)] += count
        self.total += seconds * count


@dataclass(slots=True)
class Ages:
    """Of the blocks of texts that have ended, as they went: lifetimes, since they were computed or
    read, and idle, since their text, or one that went on from it, was last used. gaps: of blocks
    that texts went on from, each time but the first, since the time before."""

    lifetimes: Histogram = field(default_factory=Histogram)
    idle: Histogram = field(default_factory=Histogram)
    gaps: Histogram = field(default_factory=Histogram)
