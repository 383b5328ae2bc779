"""Learning rate, batch size and row length as functions of how much of the run is done."""

from __future__ import annotations

import math

WARM_UP = 0.015
# (share of the run, row length): short rows are cheaper and mix more documents into a batch, the
# last stage teaches every position of the context.
LENGTHS = ((0.55, 512), (0.80, 1024), (1.01, 2048))


def learning_rate_factor(progress: float) -> float:
    """Linear warm-up, then half a cosine to zero; `progress` runs from 0 to 1."""
    if progress < WARM_UP:
        return max(progress, 1e-3) / WARM_UP
    rest = min(1.0, (progress - WARM_UP) / (1 - WARM_UP))
    return 0.5 * (1 + math.cos(math.pi * rest))


def row_length(progress: float) -> int:
    """Tokens per row at this share of the run."""
    return next(length for end, length in LENGTHS if progress < end)


def batch_tokens(progress: float) -> int:
    """Tokens per step: many small steps first, less noise once the model is good."""
    return 4096 if progress < 0.6 else 8192
