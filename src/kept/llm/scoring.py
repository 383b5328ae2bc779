"""What a model makes of a text that is all there: its tokens' log-probabilities, its states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from kept.batch import Batch, pack
from kept.cache import Cache
from kept.engine import ContextRule
from kept.errors import OptionError
from kept.llm.caching import build_cache
from kept.models import Adapter, CausalLM
from kept.models.record import Record
from kept.options import CacheOptions, ResolvedCacheOptions
from kept.sampling import TokenLogprobs
from kept.sampling.logprobs import rows_logprobs

CHUNK: Final = 256  # tokens of a pass, between two of which others take theirs
LOGITS: Final = 32 << 20  # bytes of logits at a time


def score_tokens(
    model: CausalLM,
    tokens: Sequence[int],
    num_top: int,
    options: ResolvedCacheOptions,
    adapter: Adapter | None = None,
) -> list[TokenLogprobs]:
    """The log-probability of each token but the first behind those before it, and the likeliest
    `num_top` in its place; under the model's own distribution, as `logprobs` of drawn tokens are.

    Others that use the model take their steps in between. Raises ContextLengthError for more than
    the context, OptionError for an encoder-decoder model.
    """
    found: list[TokenLogprobs] = []
    chunk = max(1, min(CHUNK, LOGITS // (4 * model.config.vocab_size)))
    for batch, cache, begin in _passes(model, tokens, options, chunk, adapter):
        after = list(tokens[begin + 1 : begin + 1 + batch.num_rows])
        if not after:
            break  # the last token alone, behind which nothing is to be scored
        logits = model.run(batch, cache, Record())  # with a record they are nobody else's
        rows = list(range(len(after)))
        peaks = logits.amax(dim=-1).tolist()[: len(after)]
        found += rows_logprobs(logits, rows, peaks, after, [num_top] * len(after))
    return found


def mean_state(
    model: CausalLM,
    tokens: Sequence[int],
    options: ResolvedCacheOptions,
    adapter: Adapter | None = None,
) -> npt.NDArray[np.float32]:
    """The mean of the last hidden states of a text's tokens, behind the final norm, (E,) fp32.

    Raises as `score_tokens`.
    """
    total: npt.NDArray[np.float64] | float = 0.0
    for batch, cache, _ in _passes(model, tokens, options, CHUNK, adapter):
        record = Record(want_hidden=True)
        last = torch.tensor([batch.num_rows - 1], dtype=torch.int64, device=model.device)
        model.run(replace(batch, wanted=last), cache, record)
        total = total + record.hidden[-1].float().cpu().numpy().sum(axis=0, dtype=np.float64)
    return np.asarray(total / len(tokens), dtype=np.float32)


def _passes(
    model: CausalLM,
    tokens: Sequence[int],
    options: ResolvedCacheOptions,
    chunk: int,
    adapter: Adapter | None,
) -> Iterator[tuple[Batch, Cache, int]]:
    """The passes over a text, their cache, and where in the text each begins."""
    if model.is_encoder_decoder:
        raise OptionError("an encoder-decoder model scores no prompt; use a decoder")
    rule = ContextRule(model.config.context)
    rule.first_offset(len(tokens))
    cache = build_cache(
        model, replace(CacheOptions().resolve(), kv_dtype=options.kv_dtype), rule, 1, None
    )
    assert cache is not None
    numbers = () if adapter is None else (model.adapters.index(adapter),)
    for begin in range(0, len(tokens), chunk):
        part = list(tokens[begin : begin + chunk])
        totals = [len(tokens)]
        yield (
            pack([part], past=[begin], totals=totals, adapters=numbers, device=model.device),
            cache,
            begin,
        )
