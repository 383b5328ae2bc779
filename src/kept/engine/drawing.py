"""The tokens of a step: one pass of the sampler over the rows of all groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from kept.engine.continuation import Continuation
from kept.engine.group import Draw, Drawn
from kept.models import NextLogits
from kept.sampling import argmax_of, sample_rows

Row = tuple[NextLogits, int]  # what a pass found, and which row of it


def draw(
    draws: Sequence[Draw], rows: Mapping[Continuation, Row], use_torch: Callable[[], None]
) -> list[Drawn]:
    """The token of each draw, or why there is none; rows: of the continuations it goes on from.

    use_torch: called before torch is asked for anything.
    """
    if not draws:
        return []
    of, drawing = [rows[parent] for _, parent in draws], [c for c, _ in draws]
    likeliest = argmax_of([c.params for c in drawing], _best(of))
    if likeliest is not None:
        return [(token, None) for token in likeliest]
    use_torch()
    found = together(of)
    drawn = sample_rows(
        found.logits,
        [c.params for c in drawing],
        [c.history for c in drawing],
        [(c.seed, len(c.history)) for c in drawing],
        found.best,
        found.likeliest,
    )
    pairs = zip(drawn.token_ids, drawn.logprobs, drawn.errors, strict=True)
    return [error or (token, logprobs) for token, logprobs, error in pairs]


def _best(rows: Sequence[Row]) -> list[tuple[float, int]] | None:
    found = []
    for of, row in rows:
        if of.best is None:
            return None
        found.append(of.best[row])
    return found


def together(rows: Sequence[Row]) -> NextLogits:
    """Rows in this order, without a copy where they lie so in one pass."""
    found, first = rows[0]
    if len(rows) == 1:
        return found.rows(first, first + 1)
    if all(x is found for x, _ in rows):
        indices = [i for _, i in rows]
        if indices == list(range(first, first + len(rows))):
            return found.rows(first, first + len(rows))
        return found.take(indices)
    best = [x.best[i] for x, i in rows if x.best is not None]
    logits = torch.stack([x.logits[i] for x, i in rows])
    return NextLogits(logits, best if len(best) == len(rows) else None)
