"""What a cache that forgets keeps at each step, and how much attention that leaves behind.

Both rules are applied to rows that a cache which keeps everything has recorded. Rows of later
layers would differ once tokens are gone; this shows what a rule does to a row, not to a text.

    rows[i][j]   what token i attends token j with, j <= i; sums to 1 over j
    steps        [start, end): the tokens read in each; the new token's row is rows[end - 1]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Rows = Sequence[Sequence[float]]
Steps = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class KeptStep:
    """The tokens a step's new token can attend, itself included, and the mass of its row outside
    of them, from 0 to 1."""

    kept: tuple[int, ...]
    lost: float


def keep_window(rows: Rows, steps: Steps, window: int, sinks: int = 0) -> list[KeptStep]:
    """The last `window` tokens, the new one among them, and the first `sinks`.

    Source: Xiao et al. 2023, "Efficient Streaming Language Models with Attention Sinks".
    """
    found = []
    for _, end in steps:
        kept = [j for j in range(end) if j > end - 1 - window or j < sinks]
        found.append(_step(rows[end - 1], kept))
    return found


def keep_heavy_hitters(rows: Rows, steps: Steps, budget: int) -> list[KeptStep]:
    """At most `budget` tokens, the new one among them: half the last, half the most attended.

    The prompt is read whole. Before each new token the lowest scores outside of the last
    `budget // 2` tokens go, the oldest first among equals, until there is room for it. A token's
    score is the attention it has got so far: from every row of the prompt, and then from each new
    row over what was still kept. Source: Zhang et al. 2023, "H2O: Heavy-Hitter Oracle".
    """
    kept: list[int] = []
    scores = [0.0] * len(rows)
    found = []
    for start, end in steps:
        recent = end - max(1, budget // 2)
        while start and len(kept) > budget - 1:
            kept.remove(min((j for j in kept if j < recent), key=lambda j: (scores[j], j)))
        kept += range(start, end)
        found.append(_step(rows[end - 1], kept))
        for row in rows[start:end]:
            _accumulate(scores, row, kept)
    return found


def _accumulate(scores: list[float], row: Sequence[float], kept: Sequence[int]) -> None:
    """Add a row over the kept tokens, as if nothing else had been there."""
    seen = [j for j in kept if j < len(row)]
    mass = sum(row[j] for j in seen)
    for j in seen:
        scores[j] += row[j] / mass if mass else 0.0


def _step(row: Sequence[float], kept: Sequence[int]) -> KeptStep:
    total = sum(row)
    return KeptStep(tuple(kept), max(0.0, 1 - sum(row[j] for j in kept) / total))
