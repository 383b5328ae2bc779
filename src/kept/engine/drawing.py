"""The tokens of a step: one pass of the sampler over the rows of all groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from kept.engine.continuation import Continuation
from kept.engine.group import Draw, Drawn
from kept.errors import SamplingError
from kept.models import NextLogits
from kept.sampling import sample

Row = tuple[NextLogits, int]  # what a pass found, and which row of it


def draw(draws: Sequence[Draw], rows: Mapping[Continuation, Row]) -> list[Drawn]:
    """The token of each draw, or why there is none; rows: of the continuations it goes on from."""
    if not draws:
        return []
    return _draw(draws, together([rows[d.parent] for d in draws]), 0, len(draws))


def _draw(draws: Sequence[Draw], found: NextLogits, first: int, last: int) -> list[Drawn]:
    drawing, rows = draws[first:last], found.rows(first, last)
    try:
        drawn = sample(
            rows.logits,
            [d.continuation.params for d in drawing],
            [d.continuation.history for d in drawing],
            [(d.continuation.seed, len(d.continuation.history)) for d in drawing],
            rows.best,
            rows.likeliest,
        )
    except SamplingError as error:
        if len(drawing) == 1:
            return [error]
        return [x for i in range(first, last) for x in _draw(draws, found, i, i + 1)]
    return list(zip(drawn.token_ids, drawn.logprobs, strict=True))


def together(rows: Sequence[Row]) -> NextLogits:
    """Rows in this order, without a copy where they lie so in one pass."""
    found, first = rows[0]
    if all(x is found for x, _ in rows):
        indices = [i for _, i in rows]
        if indices == list(range(first, first + len(rows))):
            return found.rows(first, first + len(rows))
        return found.take(indices)
    best = [x.best[i] for x, i in rows if x.best is not None]
    logits = torch.stack([x.logits[i] for x, i in rows])
    return NextLogits(logits, best if len(best) == len(rows) else None)
