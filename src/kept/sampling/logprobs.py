"""Log-probabilities of the model's own distribution, before any processor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kept.errors import OptionError
from kept.sampling.history import Ids
from kept.sampling.processors import highest
from kept.sampling.weights import Floats


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


def token_logprobs(
    logits: Tensor, token_id: int, num_top: int, likeliest: Ids | None = None
) -> TokenLogprobs:
    """Return log-probabilities of `token_id` and the `num_top` likeliest tokens.

    They are the log-softmax, in fp32, of the unprocessed `logits` (V,): temperature, filters and
    penalties do not enter, so they say what the model thinks and compare across requests. Tokens of
    probability zero are left out of `top`. `likeliest`: tokens that no other is likelier than, if
    some are known; they change nothing but the time it takes. Raises `OptionError` if `num_top` is
    above V.
    """
    if num_top > logits.numel():
        raise OptionError(
            f"logprobs={num_top} is more than the {logits.numel()} tokens of the vocabulary; "
            f"pass {logits.numel()} or less"
        )
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    top_ids = None
    if likeliest is not None and logprobs.is_cpu:
        top_ids = _highest_among(logprobs.numpy(), num_top, likeliest)
    if top_ids is None:
        top_ids = highest(logprobs, num_top).tolist()
    pairs = zip(top_ids, logprobs[top_ids].tolist(), strict=True)
    top = tuple(TokenLogprob(i, value) for i, value in pairs if value > float("-inf"))
    return TokenLogprobs(TokenLogprob(token_id, float(logprobs[token_id])), top)


def _highest_among(values: Floats, count: int, among: Ids) -> list[int] | None:
    """What `highest` finds of `values` (V,), if those `among` decide it, which none of the others
    exceeds."""
    if not 0 < count < among.size:
        return None
    order = np.lexsort((among, -values[among]))
    found = among[order[:count]]
    if not values[among[order[-1]]] < values[found[-1]]:  # others may tie with the last
        return None
    ids: list[int] = found.tolist()
    return ids
