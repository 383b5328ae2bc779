"""The options of a cache, as a caller gives them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from kept.options.cache_fields import (
    CACHE_FIELDS,
    CacheImplementation,
    EvictionScore,
    KVDtype,
    Overflow,
)
from kept.options.field import check_given
from kept.options.keywords import refuses_others
from kept.options.reader import GENERATION_CONFIG
from kept.options.resolved_cache import ResolvedCacheOptions, resolve_cache

_EMPTY: Mapping[str, object] = MappingProxyType({})


@refuses_others({})
@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions:
    """What is kept of a text between its steps, as what, and what happens at the context's end.

    `None` means the value in the checkpoint's generation_config.json, else the default. What is
    given here always wins over the checkpoint. Ranges and names are checked at once (`OptionError`
    names the value, the limit and the remedy); contradictions between options in `resolve`. Equal
    options are equal objects, which a dict can look up.
    """

    use_cache: bool | None = None
    cache_implementation: CacheImplementation | None = None
    kv_dtype: KVDtype | None = None
    max_cache_len: int | None = None
    sliding_window: int | None = None
    num_sinks: int | None = None
    kv_budget: int | Sequence[int] | None = None
    eviction_score: EvictionScore | None = None
    num_recent: int | None = None
    overflow: Overflow | None = None
    slide_hop: int | None = None

    def __post_init__(self) -> None:
        check_given(self, CACHE_FIELDS)

    def resolve(
        self,
        generation_config: Mapping[str, object] = _EMPTY,
        *,
        source: str = GENERATION_CONFIG,
    ) -> ResolvedCacheOptions:
        """Return these options made concrete by a checkpoint's generation_config.json and defaults.

        source: the name of the file that `generation_config` comes from, for errors. Raises
        `OptionError` where options contradict each other, or where the checkpoint's value of an
        option in use is out of range or names a cache that kept does not have.
        """
        given = {field.name: getattr(self, field.name) for field in CACHE_FIELDS}
        return resolve_cache(given, generation_config, source)


def _documentation() -> str:
    """The docstring's lines on the fields, from the table."""
    entries = (f"{field.name}: {field.text} {field.more}".rstrip() for field in CACHE_FIELDS)
    wrapper = textwrap.TextWrapper(
        100, initial_indent="    ", subsequent_indent="        ", break_on_hyphens=False
    )
    return "\n".join(map(wrapper.fill, entries))


CacheOptions.__doc__ = f"{CacheOptions.__doc__}\n{_documentation()}\n    "
