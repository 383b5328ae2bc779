"""How a tokenizer class makes its tokenizer."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tokenizers
from tokenizers import normalizers

Config = Mapping[str, Any]
Build = Callable[[tokenizers.Tokenizer, Config, Config], None]
Pieces = list[tuple[str, float]]  # tokens and their scores, by id
Arrange = Callable[[Pieces, Config], tuple[Pieces, int]]  # the second: which is for the unknown
Finish = Callable[[tokenizers.Tokenizer, Config, Mapping[str, str]], None]


@dataclass(frozen=True, slots=True)
class LanguageRules:
    """Where a class puts the languages of a text and its translation.

    pattern: the special tokens that it matches are languages, and its group is their code.
    default: the language of a text that says none. behind: its token comes behind the end of
    sequence, else before the text. starts: the token of the translation's language is what the
    decoder starts from; else it comes after that.
    """

    pattern: str
    default: str
    behind: bool = False
    starts: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """How a class makes its tokenizer.

    `tokens` are its special tokens by name. `build` sets normalizer, pre-tokenizer and decoder of a
    tokenizer that has only its model; it is given tokenizer_config.json, and the parsed
    tokenizer.json where it `reads_file`. `finish` sets the post-processor once all tokens are
    there, None: it is the one of tokenizer.json. `model` is the kind of model it takes, `files`
    whether vocab.json and merges.txt suffice, `adds_again` whether it takes its special tokens
    without the spaces they were declared with, `numbered` whether it has <extra_id_0> and so on
    unasked. `loose_mask` whether a mask token that is declared as a string takes in the spaces
    before it. `extra` are special tokens without a name that it has unasked, `arrange` says how it
    puts the pieces of a SentencePiece file, None: as they come, the third for what is unknown.
    `languages` says what becomes of those of a text and its translation, None: it has none.
    """

    model: str
    tokens: Mapping[str, str]
    build: Build
    finish: Finish | None = None
    files: bool = False
    adds_again: bool = False
    numbered: bool = False
    reads_file: bool = False
    loose_mask: bool = False
    extra: tuple[str, ...] = ()
    arrange: Arrange | None = None
    languages: LanguageRules | None = None


def character_table(file: Config) -> normalizers.Normalizer | None:
    """SentencePiece's own normalizer, out of what may be a sequence of several."""
    state = file.get("normalizer") or {}
    for step in state.get("normalizers", [state]):
        if step.get("type") == "Precompiled":
            return normalizers.Precompiled(base64.b64decode(step["precompiled_charsmap"]))
    return None


def content(entry: Any, default: str) -> str:
    """The text of a token that a file declares as a string or an object."""
    entry = entry.get("content") if isinstance(entry, Mapping) else entry
    return entry if isinstance(entry, str) else default
