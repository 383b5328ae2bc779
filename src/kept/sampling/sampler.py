"""The sampler: (logits, params, history, key) of each row to its next token; it keeps no state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from kept.errors import NoTokenError, OptionError, SamplingError
from kept.sampling.chain import process_scores
from kept.sampling.draw import draw
from kept.sampling.history import TokenHistory
from kept.sampling.likeliest import Likeliest
from kept.sampling.logprobs import TokenLogprobs, check_logprobs, rows_logprobs
from kept.sampling.resolved import ResolvedParams
from kept.sampling.scanned import stays_best
from kept.sampling.together import Rows, choose_together


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """The next token of each row, and its log-probabilities where the row asked for them.

    errors: of each row why it has none, or None. Such a row's token is -1.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs | None, ...]
    errors: tuple[SamplingError | OptionError | None, ...] = ()


def argmax_of(
    params: Sequence[ResolvedParams],
    best: Sequence[tuple[float, int]] | None,
    histories: Sequence[TokenHistory],
    vocab_size: int,
) -> list[int] | None:
    """Return what `sample_rows` chooses where no row needs more than its argmax; else None.

    For steps of greedy requests, where everything else costs more than this. best: see there. A row
    that a penalty or a grammar may keep from its best is -1, for `likeliest_of`.
    """
    if best is None or not all(x.is_argmax or x.is_scanned_argmax for x in params):
        return None
    found = []
    for options, (peak, token), history in zip(params, best, histories, strict=True):
        if not math.isfinite(peak):
            return None
        if options.is_argmax:
            found.append(token)
            continue
        try:
            found.append(token if stays_best(token, vocab_size, options, history) else -1)
        except SamplingError:  # of this row alone, as `sample_rows` finds
            return None
    return found


def sample(
    logits: Tensor,
    params: Sequence[ResolvedParams],
    histories: Sequence[TokenHistory],
    keys: Sequence[tuple[int, int]],
    best: Sequence[tuple[float, int]] | None = None,
    likeliest: Likeliest | None = None,
) -> SampledTokens:
    """Choose the next token of each row, or raise the first row's error; see `sample_rows`."""
    found = sample_rows(logits, params, histories, keys, best, likeliest)
    for row, error in enumerate(found.errors):
        if error is not None:
            raise type(error)(f"row {row}: {error}") from error
    return found


def sample_rows(
    logits: Tensor,
    params: Sequence[ResolvedParams],
    histories: Sequence[TokenHistory],
    keys: Sequence[tuple[int, int]],
    best: Sequence[tuple[float, int]] | None = None,
    likeliest: Likeliest | None = None,
) -> SampledTokens:
    """Choose the next token of each row, which may be of different requests, in one pass.

    `logits` is (B, V) in any float dtype, not changed; `histories[b]` are the tokens of row b so
    far, prompt first; `keys[b]` is (seed, position), which alone decides row b's random number. A
    row's token depends on nothing in the other rows. `num_beams` is not looked at: beam search
    calls `process_scores` itself. `best`, where it is known, holds each row's largest logit (NaN if
    any is) and the first token that has it; `likeliest` the largest few, which spare most requests
    the reading of whole rows and change no token. Logits of NaN or +inf, and a row of which no
    token is possible, are a `SamplingError` of that row; more `logprobs` than tokens an
    `OptionError`. Raises `OptionError` where the arguments do not fit each other.
    """
    _check_shapes(logits, params, histories, keys)
    if not params:
        return SampledTokens((), ())
    if logits.requires_grad:
        logits = logits.detach()
    if best is None:
        # (B,), (B,): the first among equals; NaN if any is NaN
        largest, first = logits.max(dim=-1)
        best = list(zip(largest.tolist(), first.tolist(), strict=True))
    errors: list[SamplingError | OptionError | None] = [_peak_error(peak) for peak, _ in best]
    wanted = []
    for row, options in enumerate(params):
        if errors[row] is None and not options.is_plain_greedy:
            try:
                token = best[row][1]
                if not (
                    options.is_scanned
                    and stays_best(token, logits.shape[1], options, histories[row])
                ):
                    wanted.append(row)
            except SamplingError as error:
                errors[row] = error
    rows = Rows(logits, params, histories, keys, [peak for peak, _ in best])
    chosen = choose_together(rows, wanted, likeliest) if wanted else {}
    is_wanted = set(wanted)
    token_ids = [
        token if error is None else -1 for (_, token), error in zip(best, errors, strict=True)
    ]
    told: dict[int, int] = {}  # rows whose log-probabilities are wanted, and of how many tokens
    for row, options in enumerate(params):
        if errors[row] is not None or options.is_argmax:
            continue
        try:
            if row in is_wanted:
                token_ids[row] = chosen[row] if row in chosen else _choose(rows, row)
            if options.logprobs is not None:
                check_logprobs(options.logprobs, logits.shape[1])
                told[row] = options.logprobs
        except (SamplingError, OptionError) as error:
            errors[row], token_ids[row] = error, -1
    logprobs: list[TokenLogprobs | None] = [None] * len(params)
    if told:
        peaks, ids = [best[row][0] for row in told], [token_ids[row] for row in told]
        found = rows_logprobs(logits, list(told), peaks, ids, list(told.values()), likeliest)
        for row, each in zip(told, found, strict=True):
            logprobs[row] = each
    return SampledTokens(tuple(token_ids), tuple(logprobs), tuple(errors))


def _choose(rows: Rows, row: int) -> int:
    """What all the ways together must come to: the whole row, one processor after the other."""
    options = rows.params[row]
    scores = process_scores(rows.logits[row].float(), options, rows.histories[row])
    peak, likeliest = scores.max(dim=-1)
    if not math.isfinite(float(peak)):
        raise NoTokenError(_explain_no_choice(float(peak), options))
    return draw(scores, rows.keys[row]) if options.do_sample else int(likeliest)


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
    if options.grammar is not None:
        found["grammar"] = options.grammar.text
    named = ", ".join(f"{name}={value!r:.100}" for name, value in found.items())
    if peak == -math.inf:
        return f"no token is left to choose from after {named}; loosen one of them"
    return f"the scores are no longer finite after {named}; choose one of them less extreme"


def _peak_error(peak: float) -> SamplingError | None:
    if math.isfinite(peak):
        return None
    if peak == -math.inf:
        return SamplingError(
            "every logit is -inf, so no token is possible; check the model's weights"
        )
    return SamplingError(
        f"the logits hold {peak}, so no token can be chosen; check the model's weights, or use a "
        "dtype of wider range (float32 or bfloat16)"
    )


def _check_shapes(
    logits: Tensor,
    params: Sequence[ResolvedParams],
    histories: Sequence[TokenHistory],
    keys: Sequence[tuple[int, int]],
) -> None:
    rows = len(params)
    shape = logits.shape
    if len(shape) != 2 or shape[1] == 0 or not logits.is_floating_point():
        raise OptionError(
            f"logits of shape {tuple(shape)} and {logits.dtype} cannot be sampled; pass "
            "floating-point logits of shape (rows, vocabulary)"
        )
    if not shape[0] == rows == len(histories) == len(keys):
        raise OptionError(
            f"logits hold {shape[0]} rows, with {rows} params, {len(histories)} histories "
            f"and {len(keys)} keys; pass one of each per row"
        )
