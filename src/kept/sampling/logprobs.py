"""Log-probabilities of the model's own distribution, before any processor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from torch import Tensor

from kept.errors import OptionError
from kept.sampling.likeliest import Likeliest
from kept.sampling.processors import highest
from kept.sampling.weights import PEAK, Floats, sums_of_chunks


class TokenLogprob(NamedTuple):
    """A token and the natural logarithm of its probability."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """The chosen token, and the likeliest tokens in its place, likeliest first.

    `top` may hold the chosen token too; equally likely ones come in order of id.
    """

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]


_LOG_PEAK: Final = math.log(PEAK)


def check_logprobs(num_top: int, vocab_size: int) -> None:
    """Raise `OptionError` where more tokens are asked for than there are."""
    if num_top > vocab_size:
        raise OptionError(
            f"logprobs={num_top} is more than the {vocab_size} tokens of the vocabulary; "
            f"pass {vocab_size} or less"
        )


def rows_logprobs(
    logits: Tensor,
    rows: Sequence[int],
    peaks: Sequence[float],
    token_ids: Sequence[int],
    num_tops: Sequence[int],
    likeliest: Likeliest | None = None,
) -> list[TokenLogprobs]:
    """Return log-probabilities of a token, and of the likeliest, of each of some rows.

    logits: (B, V). peaks: the largest logit of each of `rows`, finite; token_ids: theirs; num_tops:
    how many of the likeliest, none more than V. likeliest: of all rows of the logits, if some are
    known; they change nothing but the time it takes.

    They are the log-softmax of the unprocessed logits: temperature, filters and penalties do not
    enter, so they say what the model thinks and compare across requests. Its sum is that of
    `weights.py`, whole numbers that come to the same however many rows are summed up together; so
    these are right to 3e-7. Tokens of probability zero are left out of `top`.
    """
    read: list[Floats] = [_numbers(logits[row]) for row in rows]
    sums = sums_of_chunks(read, peaks, [1.0] * len(read)).sum(axis=1)
    found = []
    for i, row in enumerate(rows):
        log_sum = peaks[i] + math.log(int(sums[i])) - _LOG_PEAK
        ids = _likeliest(logits, row, num_tops[i], likeliest)
        # (top + 1,), the token's own last
        each = (read[i][[*ids, token_ids[i]]].astype(np.float64) - log_sum).astype(np.float32)
        *values, own = each.tolist()
        pairs = zip(ids, values, strict=True)
        top = tuple([TokenLogprob(*pair) for pair in pairs if pair[1] > -math.inf])
        found.append(TokenLogprobs(TokenLogprob(token_ids[i], own), top))
    return found


def token_logprobs(logits: Tensor, token_id: int, num_top: int) -> TokenLogprobs:
    """Return `rows_logprobs` of one row (V,). Raises `OptionError` if `num_top` is above V."""
    check_logprobs(num_top, logits.numel())
    return rows_logprobs(logits[None], [0], [float(logits.max())], [token_id], [num_top])[0]


def _numbers(row: Tensor) -> Floats:
    found: Floats = row.detach().float().cpu().contiguous().numpy()
    return found


def _likeliest(logits: Tensor, row: int, count: int, likeliest: Likeliest | None) -> list[int]:
    if likeliest is not None and count <= likeliest.tokens.shape[1]:
        known: list[int] = likeliest.tokens[row, :count].tolist()
        return known
    found: list[int] = highest(logits[row].float(), count).tolist()
    return found
