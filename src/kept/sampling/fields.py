"""The options a request can set: for each its name, its check and its default."""

from __future__ import annotations

from typing import Literal

import numpy as np

from kept.errors import OptionError
from kept.grammar import Grammar, read_grammar, read_json_schema, read_regex
from kept.options.field import Field, boolean, integer, items, number

EarlyStopping = bool | Literal["never"]


def _early_stopping(label: str, value: object) -> EarlyStopping:
    if isinstance(value, str) and value == "never":
        return "never"
    if not isinstance(value, bool):
        raise OptionError(f"{label}={value!r} is not known; pass True, False or 'never'")
    return value


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


MAX_WIDTH = 4096  # sequences of one prompt side by side: each has a slot of the cache
MAX_DRAFTS = 48  # of a sequence in a pass: caches with windows can go back by 64 tokens
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
PROMPT_LOOKUP = Field("prompt_lookup_num_tokens", integer(0), 0)
ASSISTANT = Field("num_assistant_tokens", integer(0), 16)
SKIP_SPECIAL = Field("skip_special_tokens", boolean, True)
JSON_SCHEMA: Field[Grammar | None] = Field("json_schema", read_json_schema, None)
REGEX: Field[Grammar | None] = Field("regex", read_regex, None)
GRAMMAR: Field[Grammar | None] = Field("grammar", read_grammar, None)
GRAMMARS = (JSON_SCHEMA, REGEX, GRAMMAR)

# Only in generation_config.json, where lengths count the prompt too.
MAX_LENGTH: Field[int | None] = Field("max_length", integer(1), None)
MIN_LENGTH = Field("min_length", integer(0), 0)

FIELDS: tuple[Field[object], ...] = (
    *(MAX_NEW_TOKENS, MIN_NEW_TOKENS, DO_SAMPLE, TEMPERATURE, TOP_K, TOP_P, MIN_P),
    *(REPETITION_PENALTY, NO_REPEAT_NGRAM_SIZE, NUM_BEAMS, LENGTH_PENALTY, EARLY_STOPPING),
    *(NUM_RETURN_SEQUENCES, STOP_STRINGS, EOS_TOKEN_ID, IGNORE_EOS, SEED, LOGPROBS),
    *(PROMPT_LOOKUP, ASSISTANT, SKIP_SPECIAL, *GRAMMARS),
)
