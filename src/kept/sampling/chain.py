"""Every processor a request switches on, in transformers' order."""

from __future__ import annotations

import torch
from torch import Tensor

from kept.grammar import allowed_of
from kept.sampling import token_rules
from kept.sampling.history import TokenHistory
from kept.sampling.processors import (
    min_p,
    no_repeat_ngrams,
    repetition_penalty,
    suppress,
    suppresses_ends,
    top_k,
    top_p,
)
from kept.sampling.resolved import ResolvedParams


def process_scores(scores: Tensor, params: ResolvedParams, history: TokenHistory) -> Tensor:
    """Apply every processor `params` switches on, in transformers' order.

    `scores` is (V,) fp32: the logits, or in beam search their log-softmax. Returns (V,) fp32 with
    -inf for tokens ruled out; it may be `scores` itself. All entries can be -inf.
    """
    scores = rule_scores(scores, params, history)
    if params.do_sample:
        scores = filter_scores(scores, params)
    if params.rules.renormalize_logits:
        scores = scores.log_softmax(-1)
    return scores


def rule_scores(scores: Tensor, params: ResolvedParams, history: TokenHistory) -> Tensor:
    """Apply the processors that come before a draw's temperature and filters, as above."""
    ruled = params.has_rules
    if ruled:
        scores = token_rules.before_penalties(scores, params, history)
    if params.repetition_penalty != 1.0:
        scores = repetition_penalty(scores, history.tokens, params.repetition_penalty)
    if params.no_repeat_ngram_size > 0:
        scores = no_repeat_ngrams(scores, history.tokens, params.no_repeat_ngram_size)
    if ruled:
        scores = token_rules.before_lengths(scores, params, history)
    if suppresses_ends(params, history):
        scores = suppress(scores, params.eos_token_ids)
    if ruled:
        scores = token_rules.after_lengths(scores, params, history)
    if params.grammar is not None:  # last: no other rule brings back what it forbids
        allowed = torch.from_numpy(allowed_of(history.allowed, scores.numel()))
        scores = scores.masked_fill(~allowed.to(scores.device), float("-inf"))
    return scores


def filter_scores(scores: Tensor, params: ResolvedParams) -> Tensor:
    """Apply the temperature and filters that come between these scores and a draw, as above."""
    keep = params.min_tokens_to_keep
    if params.temperature != 1.0:
        scores = scores / params.temperature
    if params.rules.top_h is not None:
        scores = token_rules.top_h(scores, params.rules.top_h)
    if params.top_k > 0:
        scores = top_k(scores, max(params.top_k, keep))
    if params.top_p < 1.0:
        scores = top_p(scores, params.top_p, keep)
    if params.min_p > 0.0:
        scores = min_p(scores, params.min_p, keep)
    return token_rules.of_draws(scores, params)
