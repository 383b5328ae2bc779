"""The kinds of cache that transformers names in a checkpoint's files, as kept's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kept.errors import OptionError
from kept.options.cache_fields import KINDS

# Kinds that hold the same keys and values as the dynamic one.
_SAME_AS_DYNAMIC: Final = frozenset(
    {
        *("dynamic", "offloaded", "hybrid", "hybrid_chunked", "offloaded_hybrid"),
        *("offloaded_hybrid_chunked", "sliding_window", "paged"),
    }
)
_SAME_AS_STATIC: Final = frozenset({"static", "offloaded_static"})
_REMEDY: Final = f"pass cache_implementation as {', '.join(KINDS[:-1])} or {KINDS[-1]}"


def without_transformers_caches(config: Mapping[str, object], source: str) -> Mapping[str, object]:
    """Return `config` with transformers' kinds of cache named as kept's that generate the same.

    "sliding", which only kept has, stays.

    Raises `OptionError` for a kind that would change the output ("quantized") or is not known.
    """
    kind = config.get("cache_implementation")
    if kind is None or kind == "sliding":
        return config
    if not isinstance(kind, str):
        raise OptionError(
            f"{source} sets cache_implementation={kind!r:.100}, which must be the name of a cache; "
            f"{_REMEDY}"
        )
    if kind in _SAME_AS_DYNAMIC:
        return {**config, "cache_implementation": "dynamic"}
    if kind in _SAME_AS_STATIC:
        return {**config, "cache_implementation": "static"}
    raise OptionError(
        f"{source} sets cache_implementation={kind!r}, which kept does not implement; {_REMEDY}"
    )
