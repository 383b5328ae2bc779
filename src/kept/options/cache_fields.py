"""The table of a cache's options: of each its check, its default, where it acts, and its text.

`CacheOptions` checks and documents itself by it, `resolved_cache.py` finds contradictions by it,
and the command line takes its help from it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

from kept.errors import OptionError
from kept.options.field import Field, boolean, choice, integer, items

T_co = TypeVar("T_co", covariant=True)

CacheImplementation = Literal["dynamic", "static", "sliding", "evicting"]
EvictionScore = Literal["window", "key-norm", "attention", "expected-attention"]
CodecName = Literal["float32", "bfloat16", "float16", "int8", "int4"]  # of keys, or of values
KVDtypeName = Literal["float32", "bfloat16", "float16", "int8", "k8v4", "int4"]
KVDtype = KVDtypeName | tuple[CodecName, CodecName]
Overflow = Literal["stop", "slide"]
Budget = int | tuple[int, ...]  # one for all layers, or one for each

KINDS: tuple[CacheImplementation, ...] = get_args(CacheImplementation)
KV_DTYPES: tuple[KVDtypeName, ...] = get_args(KVDtypeName)


@dataclass(frozen=True, slots=True)
class CacheField(Field[T_co]):
    """One option of a cache.

    text: what it does, with its default, for library and command line. more: what only a program
    can ask, or needs to know. kinds: of the caches that it acts on; none, where it is not about a
    cache but about doing without, or about the context.
    """

    text: str
    more: str = ""
    kinds: tuple[CacheImplementation, ...] = ()


def _kv_dtype(label: str, value: object) -> KVDtype:
    names: tuple[CodecName, ...] = get_args(CodecName)
    if isinstance(value, str):
        for name in KV_DTYPES:
            if value == name:
                return name
    elif isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
        for keys, values in itertools.product(names, names):
            if (keys, values) == tuple(value):
                if keys == values:
                    return keys
                return "k8v4" if (keys, values) == ("int8", "int4") else (keys, values)
    raise OptionError(
        f"{label}={value!r} is not known; pass one of {', '.join(KV_DTYPES)}, or a pair (keys, "
        f"values) of {', '.join(names)}"
    )


def _budget(label: str, value: object) -> Budget:
    wanted = "a whole number, or one for each layer"
    if not hasattr(value, "__iter__") or isinstance(value, str):
        return integer(1)(label, value)
    listed = items(label, value, wanted)
    if not listed:
        raise OptionError(f"{label} is an empty list; pass {wanted}")
    return tuple(integer(1)(label, item) for item in listed)


USE_CACHE = CacheField(
    "use_cache",
    boolean,
    True,
    "Keep keys and values between steps, or compute them anew. Default: keep.",
)
CACHE_IMPLEMENTATION: CacheField[CacheImplementation] = CacheField(
    "cache_implementation",
    choice(*KINDS),
    "dynamic",
    "Keep all and grow (dynamic), a fixed length (static), only the last tokens (sliding), or a "
    "budget of chosen ones (evicting). Default: dynamic.",
    kinds=KINDS,
)
KV_DTYPE: CacheField[KVDtype | None] = CacheField(
    "kv_dtype",
    _kv_dtype,
    None,
    "What keys and values are stored as; int8 and int4 take half and a quarter of bfloat16's "
    "memory, k8v4 (int8 keys, int4 values) is between them, and all round more. Default: the "
    "model's dtype.",
    "Or a pair (keys, values) of float32, bfloat16, float16, int8 and int4. Where they round, the "
    "text can differ.",
    kinds=KINDS,
)
MAX_CACHE_LEN: CacheField[int | None] = CacheField(
    "max_cache_len",
    integer(1),
    None,
    "Tokens a static cache holds. Default: prompt and new tokens.",
    kinds=("static",),
)
SLIDING_WINDOW: CacheField[int | None] = CacheField(
    "sliding_window",
    integer(1),
    None,
    "Tokens a sliding cache holds. Default: the model's window.",
    kinds=("sliding",),
)
NUM_SINKS = CacheField(
    "num_sinks",
    integer(0),
    0,
    "First tokens a sliding or evicting cache never drops. Default: 0 of a sliding one, 4 of an "
    "evicting one.",
    kinds=("sliding", "evicting"),
)
KV_BUDGET: CacheField[Budget | None] = CacheField(
    "kv_budget",
    _budget,
    None,
    "Tokens of each sequence that an evicting cache keeps: one number, or one for each layer, as "
    "512,256,256,128. Default: none, it needs one.",
    "A list has one for each layer that stores keys and has no window of its own.",
    kinds=("evicting",),
)
EVICTION_SCORE: CacheField[EvictionScore] = CacheField(
    "eviction_score",
    choice(*get_args(EvictionScore)),
    "attention",
    "Which tokens an evicting cache prefers: those of short keys (key-norm), those that have "
    "received most attention (attention, H2O), those that the last tokens' queries let expect most "
    "(expected-attention), or the last ones (window). Default: attention.",
    kinds=("evicting",),
)
NUM_RECENT: CacheField[int | None] = CacheField(
    "num_recent",
    integer(0),
    None,
    "Last tokens an evicting cache never drops. Default: half of what the first ones leave of the "
    "budget.",
    kinds=("evicting",),
)
OVERFLOW: CacheField[Overflow] = CacheField(
    "overflow",
    choice(*get_args(Overflow)),
    "stop",
    "At the end of the context: stop, or slide on. Default: stop.",
    "It slides on over the last tokens. Keys that stay in the cache keep what they saw of tokens "
    "that have left, so from there on the text can differ from use_cache=False, which reads the "
    "last tokens anew.",
)
SLIDE_HOP: CacheField[int | None] = CacheField(
    "slide_hop",
    integer(1),
    None,
    'With overflow="slide", re-read the window every this many tokens, for models whose positions '
    "are absolute. Default: a quarter of the context.",
)

CACHE_FIELDS: tuple[CacheField[object], ...] = (
    *(USE_CACHE, CACHE_IMPLEMENTATION, KV_DTYPE, MAX_CACHE_LEN, SLIDING_WINDOW, NUM_SINKS),
    *(KV_BUDGET, EVICTION_SCORE, NUM_RECENT, OVERFLOW, SLIDE_HOP),
)
