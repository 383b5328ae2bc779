"""The tokens of a step: one pass of the sampler over the rows of all groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from kept.engine.continuation import Continuation
from kept.engine.group import Draw, Drawn
from kept.models import NextLogits
from kept.sampling import argmax_of, likeliest_of, sample_rows

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
    histories = [c.history for c in drawing]
    params, vocab_size = [c.params for c in drawing], of[0][0].logits.shape[1]
    likeliest = argmax_of(params, _best(of), histories, vocab_size)
    if likeliest is not None and _fill(likeliest, of, drawing):
        return [(token, None) for token in likeliest]
    use_torch()
    found = together(of)
    drawn = sample_rows(
        found.logits,
        params,
        histories,
        [(c.seed, len(c.history)) for c in drawing],
        found.best,
        found.likeliest,
    )
    pairs = zip(drawn.token_ids, drawn.logprobs, drawn.errors, strict=True)
    return [error or (token, logprobs) for token, logprobs, error in pairs]


def _fill(tokens: list[int], rows: Sequence[Row], drawing: Sequence[Continuation]) -> bool:
    """Put what penalties and grammars leave in the places of -1; whether that could be done."""
    missing = [i for i, token in enumerate(tokens) if token < 0]
    while missing:
        found = rows[missing[0]][0]
        here = [i for i in missing if rows[i][0] is found]
        missing = [i for i in missing if rows[i][0] is not found]
        at = [rows[i][1] for i in here]
        params, histories = [drawing[i].params for i in here], [drawing[i].history for i in here]
        likeliest = likeliest_of(found.logits, at, params, histories)
        if likeliest is None:
            return False
        for i, token in zip(here, likeliest, strict=True):
            tokens[i] = token
    return True


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
