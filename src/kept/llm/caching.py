"""Which cache, where, and which rule at the end of the context options ask for."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kept.cache import Cache, EvictionPolicy, Offloaded, grown, make_cache, most_slot_bytes
from kept.engine import ContextRule, Held, SlotCaches, default_hop
from kept.errors import CacheFullError, OptionError
from kept.models import CausalLM
from kept.options import ResolvedCacheOptions
from kept.sampling import ResolvedParams


def context_rule(model: CausalLM, options: ResolvedCacheOptions) -> ContextRule:
    """What happens at the end of the model's context.

    Raises OptionError for a slide_hop that the model has no use for, or longer than its context.
    """
    length = model.config.context
    if options.overflow == "stop":
        return ContextRule(length)
    in_place = model.is_rotary and options.cache_implementation in ("dynamic", "sliding")
    if options.slide_hop is not None and (in_place or not options.use_cache):
        why = (
            "this model's positions are relative, so its window slides without re-reading"
            if in_place
            else "without a cache the window is re-read at every token"
        )
        raise OptionError(f"slide_hop={options.slide_hop} has no effect: {why}; leave it out")
    hop = options.slide_hop or (default_hop(length) if options.use_cache else 1)
    if hop > length:
        raise OptionError(f"slide_hop={hop} is more than the context of {length} tokens")
    return ContextRule(length, slides=True, in_place=in_place, hop=hop)


def static_length(
    options: ResolvedCacheOptions,
    params: ResolvedParams,
    rule: ContextRule,
    prompt_lengths: Sequence[int],
) -> int | None:
    """How many tokens a slot of a static cache holds; None for another kind of cache, or none.

    Raises CacheFullError if max_cache_len is too short for the longest request.
    """
    if options.cache_implementation != "static":
        return None
    longest = max(prompt_lengths)
    # The last token is drawn and not stored.
    needed = min(rule.length, rule.limit(longest, params.new_token_limit(longest)) - 1)
    if options.max_cache_len is None:
        return needed
    if options.max_cache_len < needed:
        raise CacheFullError(
            f"max_cache_len={options.max_cache_len} is less than the {needed} tokens that a prompt "
            f"of {longest} and max_new_tokens={params.max_new_tokens} come to; raise it, lower "
            "max_new_tokens, or use the dynamic cache"
        )
    return options.max_cache_len


def shared_length(
    options: ResolvedCacheOptions, length: int | None, rule: ContextRule
) -> int | None:
    """A length as `static_length` gives it, with room for some tokens more where no option says how
    many there are, so that calls of about the same length have one cache."""
    if length is None or options.max_cache_len is not None:
        return length
    return max(length, min(grown(length), rule.length))


def slot_caches(
    model: CausalLM,
    options: ResolvedCacheOptions,
    rule: ContextRule,
    length: int | None,
    place: Offloaded | None,
    step: int,
    first: Held | None = None,
) -> SlotCaches:
    """Caches of these options, each slot of which has memory of its own.

    length: of a static one. step: tokens that a sequence takes at once at most. first: one to begin
    with. Raises OptionError as `build_cache` does.
    """
    nowhere = torch.device("meta")  # where buffers take no memory
    plan = build_cache(model, options, rule, 1, length, device=nowhere, in_blocks=place is None)
    assert plan is not None
    heads = model.config.num_heads

    def make(num_slots: int) -> Cache:
        made = build_cache(model, options, rule, num_slots, length, place)
        assert made is not None
        return made

    def num_bytes(num_slots: int, longest: int) -> int:
        found = num_slots * most_slot_bytes(plan, longest, step, heads)
        budget = None if place is None else place.budget
        return found if budget is None else min(found, budget)

    return SlotCaches(plan.codec, make, num_bytes, first)


def build_cache(
    model: CausalLM,
    options: ResolvedCacheOptions,
    rule: ContextRule,
    num_slots: int,
    length: int | None,
    place: Offloaded | None = None,
    pool_bytes: int | None = None,
    device: torch.device | None = None,
    in_blocks: bool = True,
) -> Cache | None:
    """The cache the options ask for, or None for use_cache=False.

    length: of a static cache, see `static_length`. pool_bytes: at most, of a cache in blocks.
    device: where nothing is to be stored, None: the model's. in_blocks: see `make_cache`.
    Where the window slides in place, a dynamic cache becomes a sliding one of the context. Raises
    OptionError for an evicting cache of a model that cannot do with one.
    """
    if options.cache_implementation is None:
        return None
    kind, window = options.cache_implementation, options.sliding_window
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
        max_cache_len=length,
        sliding_window=window,
        num_sinks=options.num_sinks if kind == "sliding" else 0,
        budget=options.kv_budget,
        policy=_eviction_policy(options),
        dtype=model.dtype,
        kv_dtype=options.kv_dtype,
        device=device or model.device,
        place=place,
        pool_bytes=pool_bytes,
        in_blocks=in_blocks,
    )


def _eviction_policy(options: ResolvedCacheOptions) -> EvictionPolicy | None:
    if options.eviction_score is None:
        return None
    return EvictionPolicy(options.eviction_score, options.num_sinks, options.num_recent)
