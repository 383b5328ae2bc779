"""A cache's options made concrete by what the checkpoint says; every contradiction is an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kept.errors import OptionError
from kept.options import cache_fields as f
from kept.options.cache_fields import (
    CACHE_FIELDS,
    Budget,
    CacheImplementation,
    EvictionScore,
    KVDtype,
    Overflow,
)
from kept.options.reader import Reader
from kept.options.transformers_caches import without_transformers_caches

_EVICTING_SINKS = 4  # first tokens that an evicting cache keeps, unless asked otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedCacheOptions:
    """Every option of a cache, verified and concrete; made by `CacheOptions.resolve`.

    Sequences whose options are equal can share one cache. `None` is left in eight places:
    `cache_implementation` (no cache), `kv_dtype` (the model's dtype), `max_cache_len` (prompt plus
    new tokens), `sliding_window` (the model's own), `slide_hop` (chosen from the context's length),
    `kv_budget` and `eviction_score` (no evicting cache) and `num_recent` (half of what sinks leave
    of the budget).
    """

    use_cache: bool
    cache_implementation: CacheImplementation | None
    kv_dtype: KVDtype | None
    max_cache_len: int | None
    sliding_window: int | None
    num_sinks: int
    kv_budget: Budget | None
    eviction_score: EvictionScore | None
    num_recent: int | None
    overflow: Overflow
    slide_hop: int | None


def resolve_cache(
    given: Mapping[str, object], config: Mapping[str, object], source: str
) -> ResolvedCacheOptions:
    """Make `given` concrete; see `CacheOptions.resolve`, whose engine this is."""
    read = Reader(given, config, source)
    if read.get(f.USE_CACHE) and not read.is_given(f.CACHE_IMPLEMENTATION):
        read = Reader(given, without_transformers_caches(config, source), source)
    _check_hop(read)
    _check_cache(read)
    use_cache = read.get(f.USE_CACHE)
    kind = read.get(f.CACHE_IMPLEMENTATION) if use_cache else None
    evicting = kind == "evicting"
    return ResolvedCacheOptions(
        use_cache=use_cache,
        cache_implementation=kind,
        kv_dtype=read.get_given(f.KV_DTYPE),
        max_cache_len=read.get(f.MAX_CACHE_LEN) if kind == "static" else None,
        sliding_window=read.get(f.SLIDING_WINDOW) if kind == "sliding" else None,
        num_sinks=_resolve_sinks(read, kind),
        kv_budget=read.get(f.KV_BUDGET) if evicting else None,
        eviction_score=read.get(f.EVICTION_SCORE) if evicting else None,
        num_recent=read.get(f.NUM_RECENT) if evicting else None,
        overflow=read.get_given(f.OVERFLOW),
        slide_hop=read.get_given(f.SLIDE_HOP),
    )


def _check_hop(read: Reader) -> None:
    if read.is_given(f.SLIDE_HOP) and read.get_given(f.OVERFLOW) != "slide":
        raise OptionError(
            f"{read.show(f.SLIDE_HOP)} acts only past the end of the context, where "
            "overflow='stop' ends the text; pass overflow='slide', or leave it out"
        )


def _check_cache(read: Reader) -> None:
    if not read.get(f.USE_CACHE):
        for field in CACHE_FIELDS:
            if field.kinds and read.is_given(field):
                raise OptionError(
                    f"{read.show(field)} describes a cache, but {read.show(f.USE_CACHE)}; "
                    "pass use_cache=True, or leave it out"
                )
        return
    kind = read.get(f.CACHE_IMPLEMENTATION)
    for field in CACHE_FIELDS:
        if field.kinds and kind not in field.kinds and read.is_given(field):
            raise OptionError(
                f"{read.show(field)} acts only on the {' or '.join(field.kinds)} cache, and there "
                f"is {read.show(f.CACHE_IMPLEMENTATION)}; pass "
                f"cache_implementation={field.kinds[0]!r}, or leave it out"
            )
    if kind == "evicting" and not read.is_set(f.KV_BUDGET):
        raise OptionError(
            f"{read.show(f.CACHE_IMPLEMENTATION)} needs kv_budget, the tokens of each sequence "
            "that it keeps; pass it"
        )


def _resolve_sinks(read: Reader, kind: CacheImplementation | None) -> int:
    if kind == "evicting" and not read.is_set(f.NUM_SINKS):
        return _EVICTING_SINKS
    return read.get(f.NUM_SINKS) if kind in f.NUM_SINKS.kinds else 0
