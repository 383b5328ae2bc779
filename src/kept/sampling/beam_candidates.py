"""The best next tokens of all beams of a search, by the sums of their log-probabilities.

The highest score comes first, and of equal ones the lower beam, then the lower token. A row's
log-probabilities are its logits without their largest and without the logarithm of a sum in whole
numbers (weights.py). So they are the same bits whether they are found from the whole row or from
its few likeliest tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kept.sampling.chain import process_scores
from kept.sampling.draw import draw_distinct
from kept.sampling.history import Ids, TokenHistory
from kept.sampling.likeliest import Likeliest, can_be_searched_from
from kept.sampling.lowering import lowered
from kept.sampling.resolved import ResolvedParams
from kept.sampling.weights import PEAK, Floats, sums_of_chunks

_LOG_PEAK: Final = math.log(PEAK)


class Candidates(NamedTuple):
    """Beams with one token more: the index of each one's beam, its token and its score."""

    beams: list[int]
    tokens: list[int]
    scores: list[float]


def best_candidates(
    logits: Tensor,
    params: ResolvedParams,
    histories: Sequence[TokenHistory],
    beam_scores: Sequence[float],
    likeliest: Likeliest | None = None,
) -> Candidates:
    """Return the best of a search: its `num_candidates`, or all there are.

    logits: (B, V) of the beams' next tokens; histories, beam_scores: (B,) what each has come to.
    likeliest: of these rows, where some are known; it changes nothing but the time. The first
    score is not finite where no beam can go on. Not for drawn searches.
    """
    count = min(params.num_candidates, logits.numel())
    scores = np.array(beam_scores, dtype=np.float32)
    if likeliest is not None and can_be_searched_from(params) and logits.is_cpu:
        found = _from_few(logits, params, histories, scores, likeliest, count)
        if found is not None:
            return found
    flat: Floats = _scores(logits, params, histories, scores).cpu().numpy()
    if not math.isfinite(peak := float(flat.max())):
        return Candidates([0], [0], [peak])
    least = np.partition(flat, -count)[-count]
    places = np.flatnonzero(flat >= least)
    places = places[np.argsort(-flat[places], kind="stable")[:count]]
    return _candidates(places, flat, logits.shape[1])


def drawn_candidates(
    logits: Tensor,
    params: ResolvedParams,
    histories: Sequence[TokenHistory],
    beam_scores: Sequence[float],
    key: tuple[int, int],
) -> Candidates:
    """Return `best_candidates` for a search that draws, as many in the order they are drawn.

    key: seed and position. Raises SamplingError where fewer are possible.
    """
    flat = _scores(logits, params, histories, np.array(beam_scores, dtype=np.float32))
    if not math.isfinite(peak := float(flat.max())):
        return Candidates([0], [0], [peak])
    drawn = draw_distinct(flat, min(params.num_candidates, flat.numel()), key)
    return _candidates(np.array(drawn, dtype=np.int64), flat.cpu().numpy(), logits.shape[1])


def _candidates(places: Ids, flat: Floats, vocab_size: int) -> Candidates:
    beams, tokens = np.divmod(places, vocab_size)
    return Candidates(beams.tolist(), tokens.tolist(), flat[places].tolist())


def _scores(
    logits: Tensor, params: ResolvedParams, histories: Sequence[TokenHistory], beam_scores: Floats
) -> Tensor:
    """The scores (B * V,) of every next token of every beam."""
    logprobs = _logprobs(logits.float())
    rows = [process_scores(logprobs[i], params, h) for i, h in enumerate(histories)]
    return (torch.stack(rows) + torch.from_numpy(beam_scores).to(logits.device)[:, None]).flatten()


def _logprobs(logits: Tensor) -> Tensor:
    peaks = logits.max(dim=-1).values
    if not logits.is_cpu or not bool(torch.isfinite(peaks).all()):
        return logits.log_softmax(-1)
    sums = torch.from_numpy(_log_sums(logits, peaks.tolist()))
    return (logits - peaks[:, None]) - sums[:, None]


def _log_sums(logits: Tensor, peaks: Sequence[float]) -> Floats:
    """The logarithm of each row's sum of exponentials (B,) without its largest logit."""
    rows: Floats = logits.detach().contiguous().numpy()
    sums = sums_of_chunks(list(rows), peaks, [1.0] * len(rows)).sum(axis=1).tolist()
    return np.array([math.log(total) - _LOG_PEAK for total in sums], dtype=np.float32)


def _from_few(
    logits: Tensor,
    params: ResolvedParams,
    histories: Sequence[TokenHistory],
    beam_scores: Floats,
    likeliest: Likeliest,
    count: int,
) -> Candidates | None:
    """What the few likeliest tokens decide; None where one outside may be as good as the last."""
    few, vocab_size = likeliest.logits, logits.shape[1]
    peaks = few[:, :1]
    highest: list[float] = peaks.ravel().tolist()
    if not all(map(math.isfinite, highest)):
        return None
    sums = _log_sums(logits, highest)[:, None]
    lower = lowered(few, likeliest.tokens, [params] * len(few), histories, vocab_size)
    scores: Floats = ((lower - peaks) - sums) + beam_scores[:, None]
    places = likeliest.tokens + np.arange(len(few))[:, None] * vocab_size
    best = np.lexsort((places.ravel(), -scores.ravel()))[:count]
    if few.shape[1] < vocab_size:
        edges = ((few[:, -1:] - peaks) - sums) + beam_scores[:, None]
        if len(best) < count or not scores.flat[best[-1]] > edges.max():
            return None
    beams, tokens = np.divmod(places.flat[best], vocab_size)
    return Candidates(beams.tolist(), tokens.tolist(), scores.flat[best].tolist())
