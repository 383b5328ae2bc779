"""The few likeliest tokens of a row: where the model's pass has found them, they can stand for all.

What they decide is what the whole row would have, bit for bit; where that is not certain, for a tie
at their edge or a processor that changes the order, the whole row is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from kept.sampling.history import TokenHistory
from kept.sampling.processors import suppresses_ends, top_p
from kept.sampling.resolved import ResolvedParams

MOST: Final = 256  # beyond so many, finding them takes as long as it spares


@dataclass(frozen=True, slots=True)
class Likeliest:
    """Of each row the K largest logits (B, K) fp32, the largest first, and their tokens (B, K)
    int64; of equal ones the lower tokens, in order."""

    logits: Tensor
    tokens: Tensor

    def rows(self, first: int, last: int) -> Likeliest:
        """Rows [first, last), not copied."""
        return Likeliest(self.logits[first:last], self.tokens[first:last])

    def take(self, indices: list[int]) -> Likeliest:
        """Any of the rows, copied."""
        return Likeliest(self.logits[indices], self.tokens[indices])

    def repeated(self, count: int) -> Likeliest:
        """The one row there is, so many times."""
        return Likeliest(self.logits.expand(count, -1), self.tokens.expand(count, -1))


def num_likeliest(params: ResolvedParams) -> int:
    """How many of the largest logits a request can make use of; 0: none.

    One more than can be chosen from, which shows that no others tie with them.
    """
    if params.num_beams > 1:
        return 0
    of_draw = _num_drawn_from(params) + 1 if _keeps_order(params) else 0
    of_logprobs = params.logprobs + 1 if params.logprobs else 0
    return max((n for n in (of_draw, of_logprobs) if n <= MOST), default=0)


def scores_to_draw_from(
    logits: Tensor, tokens: Tensor, params: ResolvedParams, history: TokenHistory
) -> tuple[Tensor, Tensor] | None:
    """The scores (n,) that `process_scores` would leave of a row, and their tokens, ascending.

    logits, tokens: (K,) of `Likeliest`, none of them NaN or +inf. Scores may be -inf. Returns None
    where these K do not decide.
    """
    count = _num_drawn_from(params)
    if count >= len(logits) or not _keeps_order(params) or suppresses_ends(params, history):
        return None
    # Dividing keeps the order but can round different logits to the same score.
    scores = logits if params.temperature == 1.0 else logits / params.temperature
    edge = scores[count - 1]
    if not math.isfinite(float(scores[0])) or not bool(scores[-1] < edge):
        return None
    tokens, order = tokens[: int((scores >= edge).sum())].sort()
    scores = scores[order]
    if params.top_p < 1.0:
        scores = top_p(scores, params.top_p, params.min_tokens_to_keep)
    return scores, tokens


def _keeps_order(params: ResolvedParams) -> bool:
    """Whether `top_k` comes before anything but a temperature, and nothing after it sums a row."""
    return (
        params.do_sample
        and params.top_k > 0
        and params.repetition_penalty == 1.0
        and params.no_repeat_ngram_size == 0
        and params.min_p == 0.0
        and not params.has_rules
    )


def _num_drawn_from(params: ResolvedParams) -> int:
    return max(params.top_k, params.min_tokens_to_keep)
