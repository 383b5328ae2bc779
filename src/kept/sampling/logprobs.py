"""Log-probabilities of the model's own distribution, before any processor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kept.errors import OptionError
from kept.sampling.processors import highest


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
    logits: Tensor, token_id: int, num_top: int, likeliest: Tensor | None = None
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
    top_ids = highest(logprobs, num_top, likeliest)
    pairs = zip(top_ids.tolist(), logprobs[top_ids].tolist(), strict=True)
    top = tuple(TokenLogprob(i, value) for i, value in pairs if value > float("-inf"))
    return TokenLogprobs(TokenLogprob(token_id, float(logprobs[token_id])), top)
