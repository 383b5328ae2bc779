"""Which cache, where, and which rule at the end of the context options ask for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kept.cache import Cache, EvictionPolicy, Offloaded, make_cache
from kept.engine import ContextRule, default_hop
from kept.errors import CacheFullError, OptionError
from kept.models import CausalLM
from kept.sampling import ResolvedParams


def read_place(folder: str | Path | None, memory: int | None) -> Offloaded | None:
    """Where kv_folder and kv_memory have caches lie, None: in memory. Raises OptionError for one
    without the other, or for what will not do."""
    if folder is None and memory is None:
        return None
    if folder is None or memory is None:
        raise OptionError(
            f"kv_folder={folder} and kv_memory={memory} go together: the folder takes what the "
            "memory does not hold; give both or neither"
        )
    return Offloaded(folder, memory)


def context_rule(model: CausalLM, params: ResolvedParams) -> ContextRule:
    """What happens at the end of the model's context."""
    length = model.config.context
    if params.overflow == "stop":
        return ContextRule(length)
    in_place = model.is_rotary and params.cache_implementation in ("dynamic", "sliding")
    if params.slide_hop is not None and (in_place or not params.use_cache):
        why = (
            "this model's positions are relative, so its window slides without re-reading"
            if in_place
            else "without a cache the window is re-read at every token"
        )
        raise OptionError(f"slide_hop={params.slide_hop} has no effect: {why}; leave it out")
    hop = params.slide_hop or (default_hop(length) if params.use_cache else 1)
    if hop > length:
        raise OptionError(f"slide_hop={hop} is more than the context of {length} tokens")
    return ContextRule(length, slides=True, in_place=in_place, hop=hop)


def build_cache(
    model: CausalLM,
    params: ResolvedParams,
    rule: ContextRule,
    prompt_lengths: Sequence[int],
    num_slots: int,
    place: Offloaded | None = None,
) -> Cache | None:
    """The cache the options ask for, or None for use_cache=False.

    Where the window slides in place, a dynamic cache becomes a ring as long as the context.
    Raises CacheFullError if a static cache cannot hold the longest request, OptionError for an
    evicting cache of a model that cannot do with one.
    """
    if params.cache_implementation is None:
        return None
    kind, window = params.cache_implementation, params.sliding_window
    if kind == "evicting" and model.not_evicting is not None:
        raise OptionError(
            f"cache_implementation='evicting' cannot serve this model: {model.not_evicting}; leave "
            "it out, or use 'sliding'"
        )
    if rule.in_place and (kind == "dynamic" or window is None):
        kind, window = "sliding", rule.length
    return make_cache(
        model.kv_shapes,
        kind,
        num_slots=num_slots,
        max_cache_len=_static_length(params, rule, prompt_lengths) if kind == "static" else None,
        sliding_window=window,
        num_sinks=params.num_sinks if kind == "sliding" else 0,
        budget=params.kv_budget,
        policy=_eviction_policy(params),
        dtype=model.dtype,
        kv_dtype=params.kv_dtype,
        device=model.device,
        place=place,
    )


def _eviction_policy(params: ResolvedParams) -> EvictionPolicy | None:
    if params.eviction_score is None:
        return None
    return EvictionPolicy(params.eviction_score, params.num_sinks, params.num_recent)


def check_static(params: ResolvedParams, rule: ContextRule, prompt_lengths: Sequence[int]) -> None:
    """Raise CacheFullError if a static cache cannot hold the longest request."""
    if params.cache_implementation == "static":
        _static_length(params, rule, prompt_lengths)


def _static_length(params: ResolvedParams, rule: ContextRule, prompt_lengths: Sequence[int]) -> int:
    longest = max(prompt_lengths)
    # The last token is drawn and not stored.
    needed = min(rule.length, rule.limit(longest, params.new_token_limit(longest)) - 1)
    if params.max_cache_len is None:
        return needed
    if params.max_cache_len < needed:
        raise CacheFullError(
            f"max_cache_len={params.max_cache_len} is less than the {needed} tokens that a prompt "
            f"of {longest} and max_new_tokens={params.max_new_tokens} come to; raise it, lower "
            "max_new_tokens, or use the dynamic cache"
        )
    return params.max_cache_len
