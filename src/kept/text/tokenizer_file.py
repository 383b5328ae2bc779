"""What a tokenizer.json must not hold: parts the library dies of, process and all.

A panic can be caught (`panics.py`); an allocation that fails cannot. Two kinds of parts ask for
memory without end: a table of characters that claims more entries than it has, and replacements
that make each other's output grow.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from kept.errors import OptionError, TokenizerError

_MAX_PREPEND = 64  # characters; SentencePiece prepends one
# The table the library dies of, also where its name is spelled with escapes.
_HARMFUL = re.compile(r"precompiled_charsmap|\\u00[4-7]")
# What normalizing may multiply a text by unasked: ▁ has three bytes, NFKC makes up to 18.
_FREE_GROWTH = 64
_MAX_NORMALIZED = 1 << 24  # bytes, at 17 bytes of memory each
_MAX_DECODED_GROWTH = 64  # a decoder puts back what normalizing took


def check_text(text: str, path: Path, *, needed: bool = False) -> dict[str, Any]:
    """Check the text of a tokenizer.json before the library reads it, and give what it holds.

    {} where nothing in it can do harm, unless it is `needed`: parsing all of it takes as long as
    reading it does. Raises `TokenizerError` naming the part that is wrong.
    """
    if not (needed or _HARMFUL.search(text)):
        return {}
    try:
        file = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(
            f"{path} cannot be read as a tokenizer ({error}); "
            "the file is damaged or truncated, copy or download it again"
        ) from error
    if not isinstance(file, dict):
        raise TokenizerError(f"{path} must hold a JSON object; copy or download it again")
    check_file(file, path)
    return file


def check_file(file: Mapping[str, Any], path: Path) -> None:
    """`check_text` of what a tokenizer.json holds. path: where it is from."""
    for step in _steps(file.get("normalizer"), "normalizers"):
        if step.get("type") == "Precompiled":
            _check_table(step.get("precompiled_charsmap"), path)


def check_backend(backend: tokenizers.Tokenizer, path: Path) -> None:
    """Refuse what has been read and would make text grow without end, with `TokenizerError`."""
    for step in _steps(_state(backend.normalizer), "normalizers"):
        if step.get("type") == "Prepend" and len(str(step.get("prepend"))) > _MAX_PREPEND:
            raise _refused(path, f"a normalizer that prepends more than {_MAX_PREPEND} characters")
    growth = 1
    for step in _steps(_state(backend.decoder), "decoders"):
        growth *= _growth(step)
    if growth > _MAX_DECODED_GROWTH:
        raise _refused(path, f"a decoder that makes text {growth:,} times as long")


class Growth:
    """How far a tokenizer's replacements can make a text grow, asked before it is normalized."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        """Read the normalizer of a tokenizer that is complete."""
        self._steps = list(_steps(_state(backend.normalizer), "normalizers"))
        self._bound = 1
        for step in self._steps:
            self._bound *= _growth(step)

    def check(self, text: str) -> None:
        """Raise `OptionError` for a text that normalizing would make too long to hold."""
        if self._bound <= _FREE_GROWTH or len(text) * 4 * self._bound <= _MAX_NORMALIZED:
            return
        # Step by step, as replacements of different characters do not multiply each other.
        allowed = max(_MAX_NORMALIZED, _FREE_GROWTH * len(text.encode("utf-8", "replace")))
        for step in self._steps:
            if _grown(step, text) > allowed:
                raise OptionError(
                    f"normalizing a text of {len(text):,} characters would make more than "
                    f"{allowed:,} bytes of it: tokenizer.json has a normalizer that replaces text "
                    "by much longer text. Give a shorter text, or mend tokenizer.json"
                )
            text = _normalizer(step).normalize_str(text)


def _state(part: Any) -> Any:
    return None if part is None else json.loads(part.__getstate__())


def _steps(part: Any, name: str) -> Iterator[Mapping[str, Any]]:
    waiting = [part]
    while waiting:
        step = waiting.pop()
        if not isinstance(step, Mapping):
            continue
        inner = step.get(name)
        if isinstance(inner, list):
            waiting.extend(reversed(inner))
        else:
            yield step


def _growth(step: Mapping[str, Any]) -> int:
    """Give a factor that bounds the bytes a step makes of one byte."""
    match step:
        case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)}:
            return max(1, -(-_bytes(new) // max(1, _bytes(old))))
        case {"type": "Replace", "content": str(new)}:
            return _bytes(new) + 1
        case {"type": "Precompiled", "precompiled_charsmap": table}:
            data = base64.b64decode(table)
            length = int.from_bytes(data[:4], "little")
            return max(1, *map(len, data[4 + length :].split(b"\0")))
    return 1


def _grown(step: Mapping[str, Any], text: str) -> int:
    size = _bytes(text)
    match step:
        case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)} if old:
            return size + text.count(old) * (_bytes(new) - _bytes(old))
        case {"type": "Replace", "content": str(new)}:
            return size * (_bytes(new) + 1)
        case {"type": "Precompiled"}:
            return size * _growth(step)
    return size


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _normalizer(step: Mapping[str, Any]) -> Any:
    """Make the library's normalizer of one step, by way of an empty tokenizer."""
    model = {"type": "BPE", "vocab": {}, "merges": []}
    empty = {"version": "1.0", "added_tokens": [], "model": model, "normalizer": step}
    return tokenizers.Tokenizer.from_str(json.dumps(empty)).normalizer


def _check_table(table: Any, path: Path) -> None:
    """Check a SentencePiece table: the trie's length in 32 bits, the trie, texts."""
    try:
        data = base64.b64decode(table, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise _refused(path, "a precompiled_charsmap that is not base64") from None
    length = int.from_bytes(data[:4], "little")
    if len(data) < 4 or length > len(data) - 4:
        raise _refused(path, f"a precompiled_charsmap that is cut off ({len(data):,} bytes)")


def _refused(path: Path, what: str) -> TokenizerError:
    return TokenizerError(f"{path} has {what}; the file is damaged, copy or download it again")
