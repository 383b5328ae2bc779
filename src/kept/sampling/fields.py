"""The options a request can set: for each its name, its check and its default."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, get_args

import numpy as np

from kept.errors import OptionError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
EarlyStopping = bool | Literal["never"]
CacheImplementation = Literal["dynamic", "static", "sliding", "evicting"]
EvictionScore = Literal["window", "key-norm", "attention", "expected-attention"]
CodecName = Literal["float32", "bfloat16", "float16", "int8", "int4"]  # of keys, or of values
KVDtypeName = CodecName | Literal["k8v4"]
KVDtype = KVDtypeName | tuple[CodecName, CodecName]
Overflow = Literal["stop", "slide"]
Budget = int | tuple[int, ...]  # one for all layers, or one for each


@dataclass(frozen=True, slots=True)
class Field(Generic[T_co]):
    """One option: `check(label, value)` returns the value in its one canonical form or raises."""

    name: str
    check: Callable[[str, object], T_co]
    default: T_co


def integer(minimum: int, maximum: int | None = None) -> Callable[[str, object], int]:
    allowed = f"{minimum} or more" if maximum is None else f"from {minimum} to {maximum}"

    def check(label: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise OptionError(
                f"{label}={value!r} is of type {type(value).__name__}; "
                f"pass a whole number, {allowed}"
            )
        if value < minimum or (maximum is not None and value > maximum):
            raise OptionError(f"{label}={value!r} is out of range; pass a whole number, {allowed}")
        return int(value)

    return check


def number(
    low: float = -math.inf, high: float = math.inf, *, above_low: bool = False
) -> Callable[[str, object], float]:
    left = "(" if above_low or low == -math.inf else "["
    right = ")" if high == math.inf else "]"
    allowed = f"a finite number in {left}{low:g}, {high:g}{right}"

    def check(label: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
            raise OptionError(
                f"{label}={value!r} is of type {type(value).__name__}; pass {allowed}"
            )
        try:
            number = float(value)
        except OverflowError:
            raise OptionError(f"{label}={value!r} is too large; pass {allowed}") from None
        below = number <= low if above_low else number < low
        if not math.isfinite(number) or below or number > high:
            raise OptionError(f"{label}={value!r} is out of range; pass {allowed}")
        return number

    return check


def boolean(label: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise OptionError(
            f"{label}={value!r} is of type {type(value).__name__}; pass True or False"
        )
    return value


def _choice(*choices: T) -> Callable[[str, object], T]:
    def check(label: str, value: object) -> T:
        for choice in choices:
            if isinstance(value, str) and value == choice:  # an array compares number by number
                return choice
        allowed = ", ".join(map(str, choices))
        raise OptionError(f"{label}={value!r} is not known; pass one of {allowed}")

    return check


def _early_stopping(label: str, value: object) -> EarlyStopping:
    if isinstance(value, str) and value == "never":
        return "never"
    if not isinstance(value, bool):
        raise OptionError(f"{label}={value!r} is not known; pass True, False or 'never'")
    return value


def items(label: str, value: object, wanted: str) -> tuple[object, ...]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise OptionError(f"{label}={value!r} is of type {type(value).__name__}; pass {wanted}")
    try:
        return tuple(value)
    except TypeError as error:  # a tensor of no dimension has __iter__ and cannot be iterated
        raise OptionError(f"{label}={value!r} is a single value; pass {wanted}") from error


def _strings(label: str, value: object) -> tuple[str, ...]:
    wanted = "a string or a list of strings"
    strings: list[str] = []
    for item in (value,) if isinstance(value, str) else items(label, value, wanted):
        if not isinstance(item, str):
            raise OptionError(
                f"{label} holds {item!r} of type {type(item).__name__}; pass {wanted}"
            )
        if not item:
            raise OptionError(
                f"{label} holds an empty string, which would stop every text at once; remove it"
            )
        try:
            item.encode()
        except UnicodeEncodeError:
            raise OptionError(
                f"{label} holds {item!r}, half of a surrogate pair, which no text has; pass valid "
                "Unicode"
            ) from None
        if item not in strings:
            strings.append(item)
    return tuple(strings)


def _token_ids(label: str, value: object) -> tuple[int, ...]:
    single = isinstance(value, int | np.integer)
    listed = (value,) if single else items(label, value, "a token id or a list of token ids")
    if not listed:
        raise OptionError(
            f"{label} is an empty list; pass a token id, or ignore_eos=True to go on past EOS"
        )
    check = integer(0)
    return tuple(sorted({check(label, item) for item in listed}))


def _kv_dtype(label: str, value: object) -> KVDtype:
    names: tuple[CodecName, ...] = get_args(CodecName)
    allowed: tuple[KVDtypeName, ...] = (*names[:-1], "k8v4", names[-1])
    if isinstance(value, str):
        for name in allowed:
            if value == name:
                return name
    elif isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
        for keys, values in itertools.product(names, names):
            if (keys, values) == tuple(value):
                if keys == values:
                    return keys
                return "k8v4" if (keys, values) == ("int8", "int4") else (keys, values)
    raise OptionError(
        f"{label}={value!r} is not known; pass one of {', '.join(allowed)}, or a pair (keys, "
        f"values) of {', '.join(names)}"
    )


def _budget(label: str, value: object) -> Budget:
    if isinstance(value, int | float | str | np.number):
        return integer(1)(label, value)
    listed = items(label, value, "a whole number, or one for each layer")
    if not listed:
        raise OptionError(f"{label} is an empty list; pass a whole number, or one for each layer")
    return tuple(integer(1)(label, item) for item in listed)


MAX_WIDTH = 4096  # sequences of one prompt side by side: each has a slot of the cache
MAX_PENALTY = 32.0  # a length of ten million to this power is still a finite number

MAX_NEW_TOKENS = Field("max_new_tokens", integer(1), 256)
MIN_NEW_TOKENS = Field("min_new_tokens", integer(0), 0)
DO_SAMPLE = Field("do_sample", boolean, False)
TEMPERATURE = Field("temperature", number(0), 1.0)
TOP_K = Field("top_k", integer(0), 50)
TOP_P = Field("top_p", number(0, 1, above_low=True), 1.0)
MIN_P = Field("min_p", number(0, 1), 0.0)
REPETITION_PENALTY = Field("repetition_penalty", number(0, above_low=True), 1.0)
NO_REPEAT_NGRAM_SIZE = Field("no_repeat_ngram_size", integer(0), 0)
NUM_BEAMS = Field("num_beams", integer(1, MAX_WIDTH), 1)
LENGTH_PENALTY = Field("length_penalty", number(-MAX_PENALTY, MAX_PENALTY), 1.0)
EARLY_STOPPING: Field[EarlyStopping] = Field("early_stopping", _early_stopping, False)
NUM_RETURN_SEQUENCES = Field("num_return_sequences", integer(1, MAX_WIDTH), 1)
STOP_STRINGS: Field[tuple[str, ...]] = Field("stop_strings", _strings, ())
EOS_TOKEN_ID: Field[tuple[int, ...]] = Field("eos_token_id", _token_ids, ())
IGNORE_EOS = Field("ignore_eos", boolean, False)
SEED: Field[int | None] = Field("seed", integer(0, 2**64 - 1), None)
LOGPROBS: Field[int | None] = Field("logprobs", integer(0), None)
USE_CACHE = Field("use_cache", boolean, True)
CACHE_IMPLEMENTATION: Field[CacheImplementation] = Field(
    "cache_implementation", _choice(*get_args(CacheImplementation)), "dynamic"
)
KV_DTYPE: Field[KVDtype | None] = Field("kv_dtype", _kv_dtype, None)
SLIDING_WINDOW: Field[int | None] = Field("sliding_window", integer(1), None)
NUM_SINKS = Field("num_sinks", integer(0), 0)
KV_BUDGET: Field[Budget | None] = Field("kv_budget", _budget, None)
EVICTION_SCORE: Field[EvictionScore] = Field(
    "eviction_score", _choice(*get_args(EvictionScore)), "attention"
)
NUM_RECENT: Field[int | None] = Field("num_recent", integer(0), None)
MAX_CACHE_LEN: Field[int | None] = Field("max_cache_len", integer(1), None)
OVERFLOW: Field[Overflow] = Field("overflow", _choice(*get_args(Overflow)), "stop")
SLIDE_HOP: Field[int | None] = Field("slide_hop", integer(1), None)

# Only in generation_config.json, where lengths count the prompt too.
MAX_LENGTH: Field[int | None] = Field("max_length", integer(1), None)
MIN_LENGTH = Field("min_length", integer(0), 0)

FIELDS: tuple[Field[object], ...] = (
    *(MAX_NEW_TOKENS, MIN_NEW_TOKENS, DO_SAMPLE, TEMPERATURE, TOP_K, TOP_P, MIN_P),
    *(REPETITION_PENALTY, NO_REPEAT_NGRAM_SIZE, NUM_BEAMS, LENGTH_PENALTY, EARLY_STOPPING),
    *(NUM_RETURN_SEQUENCES, STOP_STRINGS, EOS_TOKEN_ID, IGNORE_EOS, SEED, LOGPROBS, USE_CACHE),
    *(CACHE_IMPLEMENTATION, KV_DTYPE, SLIDING_WINDOW, NUM_SINKS, MAX_CACHE_LEN),
    *(KV_BUDGET, EVICTION_SCORE, NUM_RECENT, OVERFLOW, SLIDE_HOP),
)
