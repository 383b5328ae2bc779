"""The processors: pure functions from one row of scores to another, as transformers has them.

A row is (V,) fp32: logits when one token is to be drawn, log-probabilities in beam search. Each
returns a new row (or the one it was given, where nothing changes) and mutates nothing. They equal
the classes of `transformers.generation.logits_process` bit for bit, with two exceptions that are
finer than transformers' own contract: of tokens tied at the edge of `top_p` the lowest ids stay
(there, whichever an unstable sort put last), and the edges of `top_p` and `min_p` are found from
exact sums and from scores, not from rounded probabilities, so that a token on the very edge can
fall to the other side.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from kept.sampling.history import Ids, TokenHistory
from kept.sampling.resolved import ResolvedParams
from kept.sampling.weights import Floats, num_in_nucleus, weights_of

_NEVER = float("-inf")


def suppresses_ends(params: ResolvedParams, history: TokenHistory) -> bool:
    """Whether a text is still too short to end."""
    return history.num_generated < params.min_new_tokens or len(history) < params.min_length


def repetition_penalty(scores: Tensor, tokens: Ids, penalty: float) -> Tensor:
    """Make tokens that have occurred less likely (or, below 1, likelier), once each.

    Positive scores are divided by `penalty` and negative ones multiplied (Keskar et al., 2019).
    `tokens` (S,) is prompt and text; ids past the end of the row are passed over.
    """
    seen = index_of(tokens[tokens < scores.numel()], scores)
    score = scores[seen]
    processed = scores.clone()
    processed[seen] = torch.where(score < 0, score * penalty, score / penalty)
    return processed


def no_repeat_ngrams(scores: Tensor, tokens: Ids, size: int) -> Tensor:
    """Rule out every token that would complete a run of `size` tokens already in `tokens` (S,)."""
    return suppress(scores, repeated_ngram_ends(tokens, size))


def repeated_ngram_ends(tokens: Ids, size: int, until: int | None = None) -> Ids:
    """Return the tokens that followed earlier occurrences of the last `size - 1` of `tokens` (S,).

    until: look only among the first so many tokens; None: among all.
    One vectorised comparison per position of the n-gram over the whole history, so a step costs
    O(S) memory reads and no Python loop over S.
    """
    searched = tokens[:until]
    num_ngrams = searched.size - size + 1
    if num_ngrams <= 0:
        return np.empty(0, dtype=np.int64)
    matches = np.ones(num_ngrams, dtype=np.bool_)
    for i in range(size - 1):
        matches &= searched[i : i + num_ngrams] == tokens[tokens.size - size + 1 + i]
    return np.unique(searched[size - 1 :][matches])


def suppress(scores: Tensor, token_ids: Iterable[int]) -> Tensor:
    """Rule out `token_ids`; ids past the end of the row are passed over."""
    banned = np.fromiter(token_ids, dtype=np.int64)
    banned = banned[banned < scores.numel()]
    if banned.size == 0:
        return scores
    return scores.index_fill(0, index_of(banned, scores), _NEVER)


def top_k(scores: Tensor, k: int) -> Tensor:
    """Rule out all but the `k` highest scores and those tied with the last of them."""
    if k >= scores.numel():
        return scores
    return scores.masked_fill(scores < torch.topk(scores, k).values[-1], _NEVER)


def top_p(scores: Tensor, mass: float, min_tokens_to_keep: int = 1) -> Tensor:
    """Rule out the least likely tokens whose probabilities together are at most `1 - mass`.

    At least `min_tokens_to_keep` stay. Holtzman et al., 2019.
    """
    values = _sorted(scores[scores > _NEVER])
    if not values.size or not np.isfinite(values[0]):
        return scores
    weights = weights_of(values, values[0])
    num_kept = max(int(num_in_nucleus(weights, weights.sum(), mass)), min_tokens_to_keep)
    if num_kept >= values.size:
        return scores
    edge = float(values[num_kept - 1])
    kept = scores > edge
    tied = torch.nonzero(scores == edge).squeeze(1)
    kept[tied[: num_kept - int(kept.sum())]] = True
    return scores.masked_fill(~kept, _NEVER)


def min_p(scores: Tensor, fraction: float, min_tokens_to_keep: int = 1) -> Tensor:
    """Rule out tokens less than `fraction` times as likely as the likeliest.

    At least `min_tokens_to_keep` stay. Nguyen et al., 2024.
    """
    peak = float(scores.max())
    if fraction <= 0.0 or not math.isfinite(peak):
        return scores
    remove = scores < float(least_score(peak, fraction))
    remove[highest(scores, min_tokens_to_keep)] = False
    return scores.masked_fill(remove, _NEVER)


def least_score(peak: float, fraction: float) -> np.float32:
    """Return the score of a token `fraction` (above 0) times as likely as one of score `peak`."""
    return np.float32(peak + math.log(fraction))


def highest(values: Tensor, count: int) -> Tensor:
    """Return the indices of the `count` highest of `values` (V,), highest first.

    Among equal values the lower index comes first, which `torch.topk` does not promise. At most V.
    """
    count = min(count, values.numel())
    if count == 0:
        return torch.empty(0, dtype=torch.int64, device=values.device)
    candidates = torch.nonzero(values >= torch.topk(values, count).values[-1]).squeeze(1)
    order = torch.sort(values[candidates], descending=True, stable=True).indices
    return candidates[order[:count]]


def _sorted(values: Tensor) -> Floats:
    """Sort `values` (n,) descending; numpy's sort without indices is many times torch's speed."""
    return np.sort(values.detach().cpu().numpy())[::-1]


def index_of(token_ids: Ids, scores: Tensor) -> Tensor:
    """Token ids (n,) as an index into `scores`."""
    return torch.from_numpy(token_ids).to(scores.device)
