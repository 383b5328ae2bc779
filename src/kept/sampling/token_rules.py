"""What each rule of `Rules` does to a row of scores (V,) fp32, as transformers' processors do it.

Pure functions that equal the classes of `transformers.generation.logits_process` bit for bit.
`before_penalties` and those below it put them in transformers' order around the
processors of `processors.py`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kept.sampling.history import Ids, TokenHistory
from kept.sampling.processors import index_of, repeated_ngram_ends, suppress
from kept.sampling.resolved import ResolvedParams
from kept.sampling.rules import Biases

_NEVER = float("-inf")
_LARGEST = torch.finfo(torch.float32).max


def biased(scores: Tensor, biases: Biases, tokens: Ids) -> Tensor:
    """Add each bias to the last token of its sequence, where `tokens` end in those before it."""
    bias = torch.zeros_like(scores)
    for sequence, value in biases:
        if _is_begun(sequence, tokens):
            bias[sequence[-1]] += value
    return scores + bias


def bad_word_ends(params: ResolvedParams, history: TokenHistory) -> list[int]:
    """The tokens that would complete a sequence of `bad_words_ids`, but for ends of a text."""
    ends = params.eos_token_ids
    words = (ids for ids in params.rules.bad_words_ids if len(ids) > 1 or ids[0] not in ends)
    return [ids[-1] for ids in words if _is_begun(ids, history.tokens)]


def _is_begun(sequence: tuple[int, ...], tokens: Ids) -> bool:
    size = len(sequence) - 1
    return size == 0 or (size <= tokens.size and tuple(tokens[-size:].tolist()) == sequence[:-1])


def counted(scores: Tensor, new: Ids, presence: float, frequency: float) -> Tensor:
    """Take `presence`, and `frequency` for each time, from the tokens of the text so far.

    new: the tokens drawn, without the prompt. As OpenAI's API defines the two.
    """
    tokens, counts = np.unique(new[new < scores.numel()], return_counts=True)
    if not tokens.size:
        return scores
    with np.errstate(over="ignore"):  # as in torch, more than a score can be is infinite
        penalty = (counts * frequency + presence).astype(np.float32)
    processed = scores.clone()
    processed[index_of(tokens, scores)] -= torch.from_numpy(penalty).to(scores.device)
    return processed


def encoder_repetition_penalty(scores: Tensor, asked: Ids, penalty: float) -> Tensor:
    """Make the tokens of what was asked likelier (or, below 1, less likely)."""
    seen = index_of(np.unique(asked[asked < scores.numel()]), scores)
    score, inverse = scores[seen], 1 / penalty
    processed = scores.clone()
    processed[seen] = torch.where(score < 0, score * inverse, score / inverse)
    return processed


def encoder_ngram_ends(asked: Ids, tokens: Ids, size: int) -> Ids:
    """The tokens that end an n-gram of `asked` whose beginning `tokens` end in."""
    if tokens.size < size - 1:
        return np.empty(0, dtype=np.int64)
    begun = tokens[tokens.size - size + 1 :]
    return repeated_ngram_ends(np.concatenate([asked, begun]), size, until=asked.size)


def forced(scores: Tensor, token_ids: tuple[int, ...]) -> Tensor:
    """Leave nothing but these tokens, all alike."""
    row = torch.full_like(scores, _NEVER)
    row[list(token_ids)] = 0
    return row


def decayed(scores: Tensor, ends: frozenset[int], factor: float, num_past: int) -> Tensor:
    """Raise the ends of a text that is `num_past` tokens longer than the rule leaves alone.

    By the largest fp32 at most: an end that is as likely as can be, not an infinite one.
    """
    inside = np.array(sorted(token for token in ends if token < scores.numel()), dtype=np.int64)
    at = index_of(inside, scores)
    penalty = (scores[at].abs() * _power(factor, num_past)).clamp(max=_LARGEST)
    processed = scores.clone()
    processed[at] += penalty.masked_fill(~torch.isfinite(scores[at]), 0.0)
    return processed


def _power(factor: float, count: int) -> float:
    try:
        return min(factor**count - 1, _LARGEST)
    except OverflowError:
        return _LARGEST


def top_h(scores: Tensor, share: float) -> Tensor:
    """Keep the likeliest tokens (of 100) that hold this share of their entropy, at least one."""
    top = torch.topk(scores, min(100, scores.numel()))
    normalized = top.values - top.values.logsumexp(-1, keepdim=True)
    probabilities = normalized.softmax(-1)
    terms = -probabilities * torch.log(probabilities)
    keep = terms.cumsum(-1) <= entropy(top.values) * share
    keep[0] = True
    removed = torch.ones_like(scores, dtype=torch.bool).scatter(0, top.indices, ~keep)
    return scores.masked_fill(removed, _NEVER)


def typical(scores: Tensor, mass: float, min_tokens_to_keep: int = 1) -> Tensor:
    """Keep the tokens whose surprise is nearest to the expected one, up to this probability.

    Meister et al., 2022, arXiv:2202.00666.
    """
    normalized = scores.log_softmax(-1)
    surprise = -(normalized * normalized.exp()).nansum(-1, keepdim=True)
    distance, order = ((-normalized) - surprise).abs().sort()
    cumulative = scores[order].softmax(-1).cumsum(-1)
    last = (cumulative < mass).sum().clamp_(max=distance.numel() - 1)
    remove = distance > distance[last]
    remove[:min_tokens_to_keep] = False
    return scores.masked_fill(torch.zeros_like(remove).scatter(0, order, remove), _NEVER)


def epsilon_cutoff(scores: Tensor, epsilon: float | Tensor, min_tokens_to_keep: int = 1) -> Tensor:
    """Keep the tokens at least this probable. Hewitt et al., 2022, arXiv:2210.15191."""
    edge = torch.topk(scores, min(min_tokens_to_keep, scores.numel())).values[-1]
    return scores.masked_fill((scores.softmax(-1) < epsilon) & (scores < edge), _NEVER)


def eta_cutoff(scores: Tensor, epsilon: float, min_tokens_to_keep: int = 1) -> Tensor:
    """`epsilon_cutoff` that falls where the distribution is flat. The same source."""
    most = torch.tensor(epsilon, dtype=scores.dtype, device=scores.device)
    eta = torch.minimum(most, most.sqrt() * torch.exp(-entropy(scores)))
    return epsilon_cutoff(scores, eta, min_tokens_to_keep)


def entropy(scores: Tensor) -> Tensor:
    """The entropy () of softmax(`scores`), in nats."""
    normalized = scores - scores.logsumexp(-1, keepdim=True)
    finite = normalized.clamp(min=torch.finfo(scores.dtype).min)
    return -(finite * normalized.softmax(-1)).sum(-1)


def before_penalties(scores: Tensor, params: ResolvedParams, history: TokenHistory) -> Tensor:
    """The rules that come before the repetition penalty."""
    rules = params.rules
    if rules.sequence_bias:
        scores = biased(scores, rules.sequence_bias, history.tokens)
    if rules.encoder_repetition_penalty != 1.0:
        penalty = rules.encoder_repetition_penalty
        scores = encoder_repetition_penalty(scores, history.asked, penalty)
    return scores


def before_lengths(scores: Tensor, params: ResolvedParams, history: TokenHistory) -> Tensor:
    """The rules between the penalties and the least length."""
    rules = params.rules
    if rules.counts_tokens:
        new = history.tokens[history.num_prompt :]
        scores = counted(scores, new, rules.presence_penalty, rules.frequency_penalty)
    if size := rules.encoder_no_repeat_ngram_size:
        scores = suppress(scores, encoder_ngram_ends(history.asked, history.tokens, size))
    if rules.bad_words_ids:
        scores = suppress(scores, bad_word_ends(params, history))
    return scores


def after_lengths(scores: Tensor, params: ResolvedParams, history: TokenHistory) -> Tensor:
    """The rules that come after the least length, and before a draw's filters."""
    rules, prompt, length = params.rules, history.num_prompt, len(history)
    if rules.forced_bos_token_id is not None and length == 1:
        scores = forced(scores, (rules.forced_bos_token_id,))
    if rules.forced_eos_token_id and length == prompt + params.new_token_limit(prompt) - 1:
        scores = forced(scores, rules.forced_eos_token_id)
    if rules.exponential_decay_length_penalty is not None:
        start, factor = rules.exponential_decay_length_penalty
        if (num_past := length - prompt - start) > 0:
            scores = decayed(scores, params.eos_token_ids, factor, num_past)
    if rules.suppress_tokens:
        scores = suppress(scores, rules.suppress_tokens)
    if rules.begin_suppress_tokens and begins(params, history):
        scores = suppress(scores, rules.begin_suppress_tokens)
    return scores


def begins(params: ResolvedParams, history: TokenHistory) -> bool:
    """Whether the next token is the first; a forced one is not the first that is meant."""
    forced_first = history.num_prompt == 1 and params.rules.forced_bos_token_id is not None
    return len(history) == history.num_prompt + forced_first


def of_draws(scores: Tensor, params: ResolvedParams) -> Tensor:
    """The filters of a draw that come after top_k, top_p and min_p.

    They see the tokens that are left alone, so that what they sum, and in which order, does not
    depend on how many have been ruled out.
    """
    if not (params.has_rules and params.rules.filters_draws):
        return scores
    left = torch.nonzero(scores > _NEVER).squeeze(1)
    if left.numel() == scores.numel():
        return _filtered(scores, params)
    if not left.numel():
        return scores
    return scores.index_copy(0, left, _filtered(scores[left], params))


def _filtered(scores: Tensor, params: ResolvedParams) -> Tensor:
    rules, keep = params.rules, params.min_tokens_to_keep
    if rules.typical_p < 1.0:
        scores = typical(scores, rules.typical_p, keep)
    if 0.0 < rules.epsilon_cutoff < 1.0:
        scores = epsilon_cutoff(scores, rules.epsilon_cutoff, keep)
    if 0.0 < rules.eta_cutoff < 1.0:
        scores = eta_cutoff(scores, rules.eta_cutoff, keep)
    return scores
