"""What penalties and bans do to a row's few likeliest tokens: none of it makes a token likelier.

So a token that is not among them stays below the last of them, and what they decide above that is
what the whole row would. Rules that may raise a token are not done here, nor are grammars: the few
are of the tokens that these allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from kept.sampling.history import Ids, TokenHistory
from kept.sampling.processors import repeated_ngram_ends, suppresses_ends
from kept.sampling.resolved import ResolvedParams
from kept.sampling.token_rules import bad_word_ends, begins, encoder_ngram_ends
from kept.sampling.weights import Floats

_FEW_BANNED: Final = 4


def only_lowers(params: ResolvedParams) -> bool:
    """Whether nothing before the temperature can make any token of any row likelier."""
    return params.repetition_penalty >= 1.0 and (not params.has_rules or params.rules.only_ban)


def lowered(
    logits: Floats,
    tokens: Ids,
    params: Sequence[ResolvedParams],
    histories: Sequence[TokenHistory],
    vocab_size: int,
) -> Floats:
    """Return what `rule_scores` makes of the logits (R, K) fp32 of these tokens (R, K).

    Each row is of a request that `only_lowers`. It may be `logits` itself, which is not changed.
    """
    if not any(options.has_penalties for options in params):
        return logits
    penalties = np.array([options.repetition_penalty for options in params], dtype=np.float32)
    penalised = np.flatnonzero(penalties != 1.0).tolist()
    if penalised:
        seen = np.zeros(logits.shape, dtype=np.bool_)
        for row in penalised:
            seen[row] = histories[row].seen(vocab_size)[tokens[row]]
        factors = penalties[:, None]
        with np.errstate(over="ignore"):  # -inf of an extreme penalty, as in the reference
            lower = np.where(logits < 0, logits * factors, logits / factors)
        logits = np.where(seen, lower, logits)
    banned = [
        _banned(*asked) if _may_ban(asked[0]) else []
        for asked in zip(params, histories, strict=True)
    ]
    if not any(banned):
        return logits
    logits = logits.copy()
    if len(set(banned[0])) <= _FEW_BANNED and all(ids == banned[0] for ids in banned):
        for token in set(banned[0]):  # of all rows at once: beams ban alike
            logits[tokens == token] = -np.inf
        return logits
    for row, ids in enumerate(banned):
        if ids:
            known = set(ids)  # numpy would take many times as long to look for a few
            logits[row, [token in known for token in tokens[row].tolist()]] = -np.inf
    return logits


def _may_ban(params: ResolvedParams) -> bool:
    return (
        params.no_repeat_ngram_size > 0
        or params.min_new_tokens > 0
        or params.min_length > 0
        or params.has_rules
    )


def _banned(params: ResolvedParams, history: TokenHistory) -> list[int]:
    """The tokens that are ruled out, some of them perhaps twice."""
    ids: list[int] = []
    if params.no_repeat_ngram_size > 0:
        ids += repeated_ngram_ends(history.tokens, params.no_repeat_ngram_size).tolist()
    if suppresses_ends(params, history):
        ids += params.eos_token_ids
    if params.has_rules:
        rules = params.rules
        ids += rules.suppress_tokens
        if rules.begin_suppress_tokens and begins(params, history):
            ids += rules.begin_suppress_tokens
        if rules.bad_words_ids:
            ids += bad_word_ends(params, history)
        if size := rules.encoder_no_repeat_ngram_size:
            ids += encoder_ngram_ends(history.asked, history.tokens, size).tolist()
    return ids
