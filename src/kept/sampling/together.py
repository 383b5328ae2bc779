"""The rows of a step that need no reading by themselves: their tokens are chosen together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from kept.errors import SamplingError
from kept.grammar import allowed_of
from kept.sampling import kernels
from kept.sampling.chain import filter_scores, rule_scores
from kept.sampling.draw import draw, uniforms_of
from kept.sampling.few import choose, needs_total
from kept.sampling.history import Ids, TokenHistory
from kept.sampling.likeliest import (
    MOST,
    Likeliest,
    can_be_chosen_from,
    can_be_chosen_once_ruled,
    can_be_filtered_from,
    num_once_ruled,
    num_to_choose_from,
)
from kept.sampling.lowering import lowered, only_lowers
from kept.sampling.resolved import ResolvedParams
from kept.sampling.scanned import likeliest_of
from kept.sampling.weights import Floats, sums_of_chunks
from kept.sampling.whole import draw_from_rows

_MAX_VOCABULARY: Final = 1 << 20  # of weights up to 2**42, whose sum is then no more than 2**62


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a step: logits (B, V), and of each row params, history, (seed, position), and its
    largest logit, which is finite."""

    logits: Tensor
    params: Sequence[ResolvedParams]
    histories: Sequence[TokenHistory]
    keys: Sequence[tuple[int, int]]
    peaks: Sequence[float]


def choose_together(
    rows: Rows, wanted: Sequence[int], likeliest: Likeliest | None
) -> dict[int, int]:
    """Return the tokens of those rows of `wanted` for which it is not the slow way that decides.

    Each is the token that `process_scores` and `draw` would choose. Rows that are missing are to be
    read one by one.
    """
    if not rows.logits.is_cpu or rows.logits.shape[1] > _MAX_VOCABULARY:
        return {}
    params = rows.params
    wanted = [row for row in wanted if _is_followed(rows.histories[row])]
    found = _choose_scanned(rows, [row for row in wanted if params[row].is_scanned])
    left = [row for row in wanted if row not in found]
    masked = [row for row in left if params[row].grammar is not None]
    free = [row for row in left if params[row].grammar is None] if masked else left
    if masked:
        found |= _choose_masked(rows, masked)
    few = [row for row in free if likeliest is not None and can_be_chosen_from(params[row])]
    if likeliest is not None and few:
        found |= _choose_from_few(rows, few, likeliest)
    filtered = [row for row in free if can_be_filtered_from(params[row])]
    if likeliest is not None and filtered:
        found |= _choose_filtered(rows, filtered, likeliest)
    sums = [row for row in wanted if row not in found and _only_sums(params[row])]
    found |= _choose_from_sums(rows, sums)
    left = [row for row in wanted if row not in found and can_be_chosen_once_ruled(params[row])]
    return found | _choose_once_ruled(rows, left)


def _is_followed(history: TokenHistory) -> bool:
    """Whether there is a mask, where one is needed; who reads the row by itself says why not."""
    try:
        return history.constraint is None or history.allowed.size > 0
    except SamplingError:
        return False


def _choose_scanned(rows: Rows, wanted: list[int]) -> dict[int, int]:
    params = [rows.params[row] for row in wanted]
    histories = [rows.histories[row] for row in wanted]
    chosen = likeliest_of(rows.logits, wanted, params, histories) if wanted else []
    return {} if chosen is None else dict(zip(wanted, chosen, strict=True))


def _choose_from_few(rows: Rows, wanted: list[int], likeliest: Likeliest) -> dict[int, int]:
    params = [rows.params[row] for row in wanted]
    histories = [rows.histories[row] for row in wanted]
    vocab_size = rows.logits.shape[1]
    logits, tokens = likeliest.logits, likeliest.tokens
    if len(wanted) < len(logits):
        logits, tokens = logits[wanted], tokens[wanted]
    lower = lowered(logits, tokens, params, histories, vocab_size)
    return _choose(rows, wanted, lower, tokens, logits[:, -1].tolist(), {})


def _choose_masked(rows: Rows, wanted: list[int]) -> dict[int, int]:
    """Of rows with a grammar: from the likeliest few of the tokens that it allows."""
    of = [
        row
        for row in wanted
        if only_lowers(rows.params[row]) and not rows.params[row].rules.filters_draws
    ]
    if not of or kernels.largest_allowed is None or rows.logits.dtype != torch.float32:
        return {}
    params = [rows.params[row] for row in of]
    histories = [rows.histories[row] for row in of]
    vocab_size = rows.logits.shape[1]
    count = min(max(MOST if _only_sums(x) else num_to_choose_from(x) for x in params), vocab_size)
    logits = np.empty((len(of), count), dtype=np.float32)
    tokens = np.empty(logits.shape, dtype=np.int64)
    words = [history.allowed for history in histories]
    whole: Floats = rows.logits.contiguous().numpy()
    kernels.largest_allowed(whole, of, words, logits, tokens)
    lower = lowered(logits, tokens, params, histories, vocab_size)
    return _choose(rows, of, lower, tokens, logits[:, -1].tolist(), {})


def _choose_filtered(rows: Rows, wanted: list[int], likeliest: Likeliest) -> dict[int, int]:
    """Of rows whose draws more is filtered from than `few.py` knows of: the reference itself, over
    the likeliest few in the order of their tokens, where all that `top_k` leaves are among them."""
    params = [rows.params[row] for row in wanted]
    histories = [rows.histories[row] for row in wanted]
    tokens = likeliest.tokens[wanted]
    logits = likeliest.logits[wanted]
    lower = lowered(logits, tokens, params, histories, rows.logits.shape[1])
    found = {}
    for i, row in enumerate(wanted):
        top_k, temperature = params[i].top_k, np.float32(params[i].temperature)
        with np.errstate(all="ignore"):  # as in few.py
            scores, edge = lower[i] / temperature, logits[i, -1] / temperature
        is_sure = np.count_nonzero(scores > edge) >= top_k
        if not is_sure or not np.isfinite(np.partition(scores, -top_k)[-top_k:]).all():
            continue
        order = np.argsort(tokens[i])
        left = filter_scores(torch.from_numpy(lower[i][order]), params[i])
        found[row] = int(tokens[i][order][draw(left, rows.keys[row])])
    return found


def _choose_once_ruled(rows: Rows, wanted: list[int]) -> dict[int, int]:
    """Of rows of which a rule may raise a token, or whose likeliest few did not decide."""
    if not wanted or kernels.largest is None:
        return {}
    ruled = {row: _ruled(rows, row) for row in wanted}
    count = min(max(num_once_ruled(rows.params[row]) for row in wanted), rows.logits.shape[1])
    scores = np.empty((len(wanted), count), dtype=np.float32)
    tokens = np.empty(scores.shape, dtype=np.int64)
    kernels.largest(list(ruled.values()), scores, tokens)
    return _choose(rows, wanted, scores, tokens, scores[:, -1].tolist(), ruled)


def _choose(
    rows: Rows,
    wanted: list[int],
    scores: Floats,
    tokens: Ids,
    edges: list[float],
    ruled: dict[int, Floats],
) -> dict[int, int]:
    """Choose from a few of each row, whose other scores are at most its edge. ruled: whole rows
    before temperature and filters, where they are known."""
    params = [rows.params[row] for row in wanted]
    if scores.shape[1] >= rows.logits.shape[1]:
        edges = [-math.inf] * len(wanted)
    totals = [0] * len(wanted)
    if any(map(needs_total, params)):
        _sum_up(rows, wanted, scores, edges, ruled, totals)
    uniform = uniforms_of([rows.keys[row] for row in wanted])
    chosen = choose(scores, tokens, edges, params, totals, uniform)
    return {row: token for row, token in zip(wanted, chosen, strict=True) if token >= 0}


def _sum_up(
    rows: Rows,
    wanted: list[int],
    few: Floats,
    edges: list[float],
    ruled: dict[int, Floats],
    totals: list[int],
) -> None:
    """Put the sums of whole rows' weights where the few need them and have the row's highest."""
    at, scores, peaks, temperatures = [], [], [], []
    for i, row in enumerate(wanted):
        options, highest = rows.params[row], few[i].max()
        with np.errstate(all="ignore"):
            peak = float(highest / np.float32(options.temperature))
        if needs_total(options) and math.isfinite(peak) and highest > edges[i] > -math.inf:
            at.append(i)
            scores.append(ruled[row] if row in ruled else _ruled(rows, row))
            peaks.append(peak)
            temperatures.append(options.temperature)
    if at:
        sums = sums_of_chunks(scores, peaks, temperatures).sum(axis=1)
        for i, total in zip(at, sums.tolist(), strict=True):
            totals[i] = total


def _only_sums(params: ResolvedParams) -> bool:
    """Whether a draw needs nothing of a row but the sums of its weights."""
    return (
        params.do_sample
        and params.top_k == 0
        and params.top_p == 1.0
        and params.min_p == 0.0
        and not (params.has_rules and params.rules.filters_draws)
    )


def _choose_from_sums(rows: Rows, wanted: list[int]) -> dict[int, int]:
    scores: list[Floats] = []
    peaks: list[float] = []
    drawn: list[int] = []
    masked = _masked(rows, [row for row in wanted if rows.params[row].only_masks])
    for row in wanted:
        ruled = masked[row] if row in masked else _ruled(rows, row)
        peak = float(ruled.max()) if rows.params[row].has_penalties else rows.peaks[row]
        with np.errstate(all="ignore"):
            peak = float(np.float32(peak) / np.float32(rows.params[row].temperature))
        if math.isfinite(peak):
            drawn.append(row)
            scores.append(ruled)
            peaks.append(peak)
    if not drawn:
        return {}
    temperatures = [rows.params[row].temperature for row in drawn]
    sums = sums_of_chunks(scores, peaks, temperatures)
    uniform = uniforms_of([rows.keys[row] for row in drawn])
    tokens = draw_from_rows(scores, peaks, temperatures, sums, uniform)
    return dict(zip(drawn, tokens.tolist(), strict=True))


def _masked(rows: Rows, wanted: list[int]) -> dict[int, Floats]:
    """What grammars leave of the scores (V,) of some rows."""
    if not wanted:
        return {}
    size = rows.logits.shape[1]
    allowed = np.stack([allowed_of(rows.histories[row].allowed, size) for row in wanted])
    scores: Floats = rows.logits[wanted].float().numpy()
    scores[~allowed] = -np.inf
    return dict(zip(wanted, scores, strict=True))


def _ruled(rows: Rows, row: int) -> Floats:
    """The scores (V,) of a row before temperature and filters, in one piece."""
    scores = rows.logits[row].float()
    if rows.params[row].has_penalties:
        scores = rule_scores(scores, rows.params[row], rows.histories[row])
    found: Floats = scores.contiguous().numpy()
    return found
