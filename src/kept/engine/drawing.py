"""The tokens of a step: one pass of the sampler over the rows of all groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from kept.engine.continuation import Continuation
from kept.engine.group import Draw, Drawn
from kept.models import NextLogits
from kept.sampling import sample_rows

Row = tuple[NextLogits, int]  # what a pass found, and which row of it


def draw(draws: Sequence[Draw], rows: Mapping[Continuation, Row]) -> list[Drawn]:
    """The token of each draw, or why there is none; rows: of the continuations it goes on from."""
    if not draws:
        return []
    found = together([rows[d.parent] for d in draws])
    drawing = [d.continuation for d in draws]
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
