"""The scores of many rows' few likeliest tokens, and what they decide of each row.

`native/choose.cpp` does the same, a row at a time and many times faster, and finds the same tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from kept.sampling import kernels
from kept.sampling.history import Ids
from kept.sampling.processors import least_score
from kept.sampling.resolved import ResolvedParams
from kept.sampling.weights import Floats, Whole, num_in_nucleus, places, weights_of

Flags = npt.NDArray[np.bool_]
_TOKEN_BITS: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class FewScores:
    """Of R rows the scores (R, K) fp32 of K tokens (R, K), as a draw's filters find them.

    The likeliest come first, and of equals the lower token. num_sure: (R,) how many of them
    no other token of the row is as likely as; 0 where a score is not finite. params: of the rows.
    """

    scores: Floats
    tokens: Ids
    num_sure: Ids
    edges: Floats  # (R,) what all others of the row are at most
    params: Sequence[ResolvedParams]
    counts: Sequence[int]  # how many each row takes, 0: it does not go by that


def choose(
    logits: Floats,
    tokens: Ids,
    edges: Sequence[float],
    params: Sequence[ResolvedParams],
    totals: Sequence[int],
    uniform: Sequence[float],
) -> list[int]:
    """Return each row's token (R,), -1: the few do not decide it.

    logits: (R, K) what processors before the temperature leave of the largest of each row. tokens:
    (R, K) theirs. edges: (R,) what no other logit of the row exceeds. totals: (R,) the sum of the
    whole row's weights, of rows with `needs_total`. uniform: (R,) the random numbers in [0, 1) of
    rows that draw.
    """
    counts = _counts(logits, edges, params)
    if kernels.choose_from_few is not None:
        each = zip(edges, params, counts, totals, uniform, strict=True)
        return kernels.choose_from_few(logits, tokens, [_as_options(*row) for row in each])
    few = _few_scores(logits, tokens, edges, params, counts)
    chosen, decided = _chosen(few, np.array(totals, dtype=np.int64), np.array(uniform))
    found: list[int] = np.where(decided, chosen, -1).tolist()
    return found


def _as_options(
    edge: float, params: ResolvedParams, top_k: int, total: int, uniform: float
) -> kernels.FewOptions:
    least = math.log(params.min_p) if params.min_p > 0.0 else -math.inf
    draws, top_p = params.do_sample, params.top_p
    return edge, params.temperature, draws, top_k, top_p, least, total, uniform


def _counts(logits: Floats, edges: Sequence[float], params: Sequence[ResolvedParams]) -> list[int]:
    """How many of the likeliest tokens each row takes, 0: it does not go by that. Where no other
    token is possible, no more than are, and those are all there is to draw from."""
    counts = [options.top_k if options.do_sample else 1 for options in params]
    if -math.inf in edges:
        possible = np.count_nonzero(logits > -np.inf, axis=1).tolist()
        for i, edge in enumerate(edges):
            if edge == -math.inf:
                counts[i] = min(counts[i] or possible[i], possible[i])
    return counts


def _few_scores(
    logits: Floats,
    tokens: Ids,
    edges: Sequence[float],
    params: Sequence[ResolvedParams],
    counts: Sequence[int],
) -> FewScores:
    with np.errstate(all="ignore"):  # of extreme options; what comes of them is not finite
        temperatures = np.array([options.temperature for options in params]).astype(np.float32)
        scores = logits / temperatures[:, None]
        least: Floats = np.array(edges, dtype=np.float32) / temperatures
    # Whether it is NaN or too large, no comparison holds.
    fine: Flags = np.logical_and.reduce(scores < np.inf, axis=1)
    scores, tokens = _in_order(np.where(fine[:, None], scores, np.float32(0)), tokens)
    fine &= scores[:, 0] > -np.inf
    num_sure = np.where(fine, (scores > least[:, None]).sum(axis=1), 0)
    return FewScores(scores, tokens, num_sure, least, params, counts)


def _in_order(scores: Floats, tokens: Ids) -> tuple[Floats, Ids]:
    """Sort each row: by score, the highest first, then by token. Neither NaN nor 2**32 tokens."""
    # One integer for both, which numpy sorts many times faster than it finds an order.
    bits = (scores + np.float32(0)).view(np.int32)  # zero has one sign
    rising = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)
    ranks = np.sort((rising << 32) | (_TOKEN_BITS - tokens), axis=1)[:, ::-1]
    rising = (ranks >> 32).astype(np.int32)
    bits = rising ^ ((rising >> 31) & 0x7FFFFFFF)
    return bits.view(np.float32), _TOKEN_BITS - (ranks & _TOKEN_BITS)


def _chosen(few: FewScores, totals: Whole, uniform: npt.NDArray[np.float64]) -> tuple[Ids, Flags]:
    """Each row's token (R,), and whether it is certain to be that of the whole row."""
    weights, num_kept, decided = _filtered(few, totals)
    draws = np.array([options.do_sample for options in few.params])
    chosen = few.tokens[:, 0].copy()
    if draws.any():
        drawn = _draw(weights[draws], few.tokens[draws], num_kept[draws], uniform[draws])
        chosen[draws] = drawn
    return chosen, decided


def needs_total(params: ResolvedParams) -> bool:
    """Whether the few likeliest decide only beside the sum of their row's weights."""
    return params.top_k == 0 and params.top_p < 1.0


def _filtered(few: FewScores, totals: Whole) -> tuple[Whole, Ids, Flags]:
    """The weights (R, K), how many of each row the filters leave, and whether that is certain."""
    scores, params = few.scores, few.params
    num_few = scores.shape[1]
    top_k = np.array(few.counts)
    mass = np.array([options.top_p for options in params])
    fraction = np.array([options.min_p for options in params])
    by_count = top_k > 0
    last = np.clip(top_k, 1, num_few) - 1
    lowest = np.take_along_axis(scores, last[:, None], axis=1)
    kept = (scores >= lowest) | ~by_count[:, None]
    decided = by_count & (top_k <= few.num_sure)
    num_kept = kept.sum(axis=1)
    width = int(num_kept.max())  # what no row keeps need not be weighed
    scores, kept = scores[:, :width], kept[:, :width]
    peaks = np.where(few.num_sure > 0, scores[:, 0], np.float32(0))
    weights = np.where(kept, weights_of(np.minimum(scores, peaks[:, None]), peaks[:, None]), 0)
    if (by_mass := mass < 1.0).any():
        in_nucleus = num_in_nucleus(weights, np.where(by_count, weights.sum(axis=1), totals), mass)
        ends = by_mass & ~by_count & (in_nucleus < num_few)
        decided |= ends & (in_nucleus <= few.num_sure) & (few.num_sure > 0)
        num_kept = np.where(by_mass, np.minimum(num_kept, np.maximum(in_nucleus, 1)), num_kept)
    if (by_peak := fraction > 0.0).any():
        pairs = zip(peaks.tolist(), fraction.tolist(), strict=True)
        cuts = [least_score(peak, f) if f > 0 else -np.inf for peak, f in pairs]
        least = np.array(cuts, dtype=np.float32)
        decided |= by_peak & (least > few.edges) & (few.num_sure > 0)
        likely = (scores >= least[:, None]).sum(axis=1)
        num_kept = np.minimum(num_kept, np.maximum(likely, 1))
    return weights, num_kept, decided


def _draw(weights: Whole, tokens: Ids, num_kept: Ids, uniform: npt.NDArray[np.float64]) -> Ids:
    """Draw one of the first `num_kept` tokens of each row, as `draw` does of a whole one."""
    width = int(num_kept.max())
    order = np.argsort(tokens[:, :width], axis=1)
    weights = np.where(np.arange(width) < num_kept[:, None], weights[:, :width], 0)
    cumulative = np.cumsum(np.take_along_axis(weights, order, axis=1), axis=1)
    index = (cumulative <= places(cumulative[:, -1], uniform)[:, None]).sum(axis=1)
    at = np.take_along_axis(order, np.minimum(index, width - 1)[:, None], axis=1)
    found: Ids = np.take_along_axis(tokens, at, axis=1)[:, 0]
    return found
