"""Requests for the engine, and what each must come to on its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kept import SamplingParams, make_cache
from kept.cache import Cache
from kept.engine import ContextRule, Engine, Group, Request
from kept.sampling import ResolvedParams, TokenHistory, derive_seed, sample

from .toy import VOCAB, Toy, next_logits

Outcome = list[tuple[tuple[int, ...], str | None]]


def resolved(**options: Any) -> ResolvedParams:
    return SamplingParams(**{"seed": 1, **options}).resolve(vocab_size=VOCAB)


def make_engine(
    model: Toy, *, slots: int, kind: str | None = "dynamic", chunk: int = 512, **rule: Any
) -> Engine:
    fields = {
        "static": {"max_cache_len": model.config.context},
        "sliding": {"sliding_window": model.config.context},
    }
    cache: Cache | None = None
    if kind is not None:
        cache = make_cache(model.kv_shapes, kind, num_slots=slots, **fields.get(kind, {}))
    context = ContextRule(model.config.context, **rule)
    return Engine(model, cache, context, max_slots=slots, prefill_chunk=chunk)


def pooled(model: Toy, *, slots: int, blocks: int, chunk: int = 512, **rule: Any) -> Engine:
    """An engine whose pool has so many blocks of 64 tokens."""
    size = make_cache(model.kv_shapes).block_bytes
    cache = make_cache(model.kv_shapes, num_slots=slots, pool_bytes=blocks * size)
    context = ContextRule(model.config.context, **rule)
    return Engine(model, cache, context, max_slots=slots, prefill_chunk=chunk)


def outcome(group: Group) -> Outcome:
    """The new tokens and finish reason of each result."""
    return [
        (tuple(c.history.tokens[c.history.num_prompt :].tolist()), c.finish_reason)
        for c in group.results
    ]


def run(engine: Engine, groups: Sequence[Group], max_steps: int = 2000) -> list[Outcome]:
    for group in groups:
        engine.submit(Request(group))
    for _ in range(max_steps):
        if not engine.has_work:
            return [outcome(group) for group in groups]
        engine.step()
    raise AssertionError(f"not finished after {max_steps} steps")


def expected(prompt: Sequence[int], params: ResolvedParams, rule: ContextRule) -> Outcome:
    """What sampling from the toy's known logits comes to, written as a plain loop."""
    found: Outcome = []
    for index in range(params.num_return_sequences):
        history, seed = TokenHistory(prompt), derive_seed(params.seed, index)
        limit = rule.limit(len(prompt), params.max_new_tokens)
        offset = max(0, len(prompt) - rule.length)
        reason = None
        while reason is None:
            if len(history) - offset > rule.length:
                offset += rule.hop
            logits = next_logits(history.tokens[offset:].tolist())[None]
            [token] = sample(logits, [params], [history], [(seed, len(history))]).token_ids
            history.append(token)
            if token in params.eos_token_ids:
                reason = "stop"
            elif len(history) >= limit:
                reason = "length"
        found.append((tuple(history.tokens[len(prompt) :].tolist()), reason))
    return found
