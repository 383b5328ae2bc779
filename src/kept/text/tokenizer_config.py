"""The small files beside a tokenizer, each field of theirs that kept reads checked at this door."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kept.errors import TokenizerError
from kept.json_file import read_json_object

_TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_FLAGS = (
    *("add_bos_token", "add_eos_token", "add_prefix_space", "legacy", "split_special_tokens"),
    "legacy_behaviour",
    *("clean_up_tokenization_spaces", "do_lower_case", "tokenize_chinese_chars", "strip_accents"),
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output",
)
_MAX_EXTRA = 10_000
_LARGEST_ID = 2**31 - 1
_MAX_SHOWN = 80  # characters of a value in a message


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """The objects of tokenizer_config.json (`fields`), special_tokens_map.json, added_tokens.json
    and config.json (`model`), {} for a file that is not there."""

    fields: dict[str, Any]
    special_tokens_map: dict[str, Any]
    added_tokens: dict[str, Any]
    model: dict[str, Any]


def read_tokenizer_config(folder: Path) -> TokenizerConfig:
    """Read the files of a checkpoint folder.

    Raises `TokenizerError` that names file, field, value and what is allowed.
    """

    def read(name: str) -> dict[str, Any]:
        return read_json_object(folder / name, TokenizerError, optional=True)

    found = TokenizerConfig(
        read("tokenizer_config.json"),
        read("special_tokens_map.json"),
        read("added_tokens.json"),
        read("config.json"),
    )
    for name, part in (("tokenizer_config.json", found.fields), ("config.json", found.model)):
        _check(name, part, "tokenizer_class", _is_name, "a string")
    for name, part in (
        ("tokenizer_config.json", found.fields),
        ("special_tokens_map.json", found.special_tokens_map),
    ):
        _check_tokens(name, part)
    for flag in _FLAGS:
        _check("tokenizer_config.json", found.fields, flag, _is_flag, "true or false")
    _check(
        "tokenizer_config.json",
        found.fields,
        "extra_ids",
        lambda value: type(value) is int and 0 <= value <= _MAX_EXTRA,
        f"a number up to {_MAX_EXTRA:,}",
    )
    _check("tokenizer_config.json", found.fields, "src_lang", _is_name, "a string")
    _check("config.json", found.model, "model_type", _is_name, "a string")
    _check_added(found)
    return found


def _check_tokens(name: str, part: Mapping[str, Any]) -> None:
    what = "a string or an object with a content"
    for field, value in part.items():
        if field.endswith("_token") and field not in _FLAGS and not isinstance(value, bool):
            _check(name, part, field, _is_token, what)
        if isinstance(value, bool) and field in _TOKEN_NAMES:
            raise _wrong(name, field, value, what)
    for field in ("extra_special_tokens", "additional_special_tokens"):
        _check(name, part, field, _are_tokens, "a list (or an object) of tokens")


def _check_added(found: TokenizerConfig) -> None:
    name, field = "tokenizer_config.json", "added_tokens_decoder"
    if field in found.fields:
        entries = found.fields[field]
        if not isinstance(entries, Mapping):
            raise _wrong(name, field, entries, "an object of tokens by id")
        for key, value in entries.items():
            if not (key.isascii() and key.isdigit() and int(key[:12]) <= _LARGEST_ID):
                raise _wrong(name, field, key, f"ids from 0 to {_LARGEST_ID}")
            if not isinstance(value, Mapping) or not _is_token(value):
                raise _wrong(name, f"{field}[{key}]", value, "an object with a content")
    for text, token_id in found.added_tokens.items():
        if isinstance(token_id, bool) or not isinstance(token_id, int) or not _is_text(text):
            raise _wrong("added_tokens.json", _shown(text), token_id, "a text with its id")


def _check(
    name: str, part: Mapping[str, Any], field: str, allowed: Callable[[Any], bool], what: str
) -> None:
    value = part.get(field)
    if value is not None and not allowed(value):
        raise _wrong(name, field, value, what)


def _wrong(name: str, field: str, value: Any, what: str) -> TokenizerError:
    return TokenizerError(
        f"{name} has {field} = {_shown(value)}, which must be {what} (texts in valid Unicode); "
        "correct it or download the file again"
    )


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool) or value in (0, 1)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and _is_text(value)


def _is_text(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(value.encode("utf-8") or True)
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def _is_token(value: Any) -> bool:
    if isinstance(value, Mapping):
        flags = all(isinstance(value.get(flag, False), bool) for flag in _TOKEN_FLAGS)
        return flags and _is_text(value.get("content"))
    return _is_text(value)


def _are_tokens(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_text, value)) and all(map(_is_token, value.values()))
    return isinstance(value, list) and all(map(_is_token, value))


_TOKEN_NAMES = frozenset(
    f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
)
