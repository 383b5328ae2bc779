"""The sampler: (logits, params, history, key) of each row to its next token; it keeps no state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from kept.errors import OptionError, SamplingError
from kept.sampling.chain import process_scores
from kept.sampling.draw import draw
from kept.sampling.history import TokenHistory
from kept.sampling.likeliest import Likeliest, scores_to_draw_from
from kept.sampling.logprobs import TokenLogprobs, token_logprobs
from kept.sampling.resolved import ResolvedParams


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """The next token of each row, and its log-probabilities where the row asked for them."""

    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs | None, ...]


def sample(
    logits: Tensor,
    params: Sequence[ResolvedParams],
    histories: Sequence[TokenHistory],
    keys: Sequence[tuple[int, int]],
    best: Sequence[tuple[float, int]] | None = None,
    likeliest: Likeliest | None = None,
) -> SampledTokens:
    """Choose the next token of each row.

    `logits` is (B, V) in any float dtype, not changed; `histories[b]` are the tokens of row b so
    far, prompt first; `keys[b]` is (seed, position), which alone decides row b's random number. A
    row's token depends on nothing in the other rows. `num_beams` is not looked at: beam search
    calls `process_scores` itself. `best`, where it is known, holds each row's largest logit (NaN if
    any is) and the first token that has it; `likeliest` the largest few, which spare some requests
    the reading of whole rows and change no token. Raises `SamplingError` on NaN or +inf logits and
    where no token is possible; `OptionError` where the arguments do not fit each other.
    """
    _check_shapes(logits, params, histories, keys)
    if not params:
        return SampledTokens((), ())
    logits = logits.detach()
    if best is None:
        # (B,), (B,): the first among equals; NaN if any is NaN
        found, first = logits.max(dim=-1)
        best = list(zip(found.tolist(), first.tolist(), strict=True))
    _check_peaks([peak for peak, _ in best])
    token_ids = [token for _, token in best]
    logprobs: list[TokenLogprobs | None] = [None] * len(params)
    for row, options in enumerate(params):
        few = None if likeliest is None else (likeliest.logits[row], likeliest.tokens[row])
        if not options.is_plain_greedy:
            token_ids[row] = _choose(logits[row], options, histories[row], keys[row], few)
        if options.logprobs is not None:
            tokens = None if few is None else few[1]
            logprobs[row] = token_logprobs(logits[row], token_ids[row], options.logprobs, tokens)
    return SampledTokens(tuple(token_ids), tuple(logprobs))


def _choose(
    logits: Tensor,
    options: ResolvedParams,
    history: TokenHistory,
    key: tuple[int, int],
    few: tuple[Tensor, Tensor] | None,
) -> int:
    found = None if few is None else scores_to_draw_from(*few, options, history)
    if found is not None:
        scores, tokens = found
        return int(tokens[draw(scores, key)])
    scores = process_scores(logits.float(), options, history)
    peak, likeliest = scores.max(dim=-1)
    if not math.isfinite(float(peak)):
        raise SamplingError(_explain_no_choice(float(peak), options))
    return draw(scores, key) if options.do_sample else int(likeliest)


def _explain_no_choice(peak: float, options: ResolvedParams) -> str:
    active = {
        "repetition_penalty": options.repetition_penalty != 1.0,
        "no_repeat_ngram_size": options.no_repeat_ngram_size > 0,
        "min_new_tokens": options.min_new_tokens > 0,
        "min_length": options.min_length > 0,
        "temperature": options.temperature != 1.0,
    }
    found = {name: getattr(options, name) for name, on in active.items() if on}
    found |= options.rules.active()
    named = ", ".join(f"{name}={value!r:.100}" for name, value in found.items())
    if peak == -math.inf:
        return f"no token is left to choose from after {named}; loosen one of them"
    return f"the scores are no longer finite after {named}; move one of them nearer to 1"


def _check_peaks(peaks: Sequence[float]) -> None:
    if all(map(math.isfinite, peaks)):
        return
    row, peak = next((i, p) for i, p in enumerate(peaks) if not math.isfinite(p))
    if peak == -math.inf:
        raise SamplingError(
            f"every logit of row {row} is -inf, so no token is possible; check the model's weights"
        )
    raise SamplingError(
        f"the logits of row {row} hold {peak}, so no token can be chosen; check the model's "
        "weights, or use a dtype of wider range (float32 or bfloat16)"
    )


def _check_shapes(
    logits: Tensor,
    params: Sequence[ResolvedParams],
    histories: Sequence[TokenHistory],
    keys: Sequence[tuple[int, int]],
) -> None:
    rows = len(params)
    if logits.dim() != 2 or logits.shape[1] == 0 or not logits.is_floating_point():
        raise OptionError(
            f"logits of shape {tuple(logits.shape)} and {logits.dtype} cannot be sampled; pass "
            "floating-point logits of shape (rows, vocabulary)"
        )
    if not logits.shape[0] == rows == len(histories) == len(keys):
        raise OptionError(
            f"logits hold {logits.shape[0]} rows, with {rows} params, {len(histories)} histories "
            f"and {len(keys)} keys; pass one of each per row"
        )
