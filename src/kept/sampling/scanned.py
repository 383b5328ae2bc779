"""The likeliest token of greedy rows on which nothing acts but a repetition penalty and a grammar.

Mostly it is the row's highest, which the model's pass has found on its way. Where that has been
seen or is forbidden, a kernel reads the row once. Either is what the processors come to.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kept.errors import SamplingError
from kept.sampling import kernels
from kept.sampling.history import TokenHistory
from kept.sampling.resolved import ResolvedParams


def stays_best(token: int, vocab_size: int, params: ResolvedParams, history: TokenHistory) -> bool:
    """Whether the first highest token of a row, which `is_scanned`, is its choice as it stands; if
    not, it may be nonetheless. Raises NoTokenError for a grammar that cannot be followed."""
    if params.repetition_penalty < 1.0:
        return False
    if params.repetition_penalty > 1.0 and history.seen(vocab_size)[token]:
        return False
    return history.allows(token)


def likeliest_of(
    logits: Tensor,
    rows: Sequence[int],
    params: Sequence[ResolvedParams],
    histories: Sequence[TokenHistory],
) -> list[int] | None:
    """Return the tokens of some rows of logits (B, V) without NaN; None where `sample_rows` has to
    find them, or to say why there are none.

    params, histories: of these rows, each of which `is_scanned`.
    """
    if kernels.likeliest is None or not logits.is_cpu or logits.dtype != torch.float32:
        return None
    vocab_size = logits.shape[1]
    options: list[kernels.LikeliestOptions] = []
    try:
        for row, each, history in zip(rows, params, histories, strict=True):
            penalty = each.repetition_penalty
            seen = None if penalty == 1.0 else history.seen(vocab_size)
            words = None if each.grammar is None else history.allowed
            options.append((row, penalty, seen, words))
    except SamplingError:
        return None
    found = kernels.likeliest(logits.detach().contiguous().numpy(), options)
    return None if -1 in found else found
