"""The values of a GGUF header, read one after the other from a file that anybody may have made.

Every length is held against what the file has left, and against a limit far above any model's,
before memory is taken for it.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from kept.errors import WeightsError

# Of one header: vocabularies have 262,144 tokens and half a million merges, templates some KB.
MAX_TEXT = 1 << 24  # bytes
MAX_ITEMS = 1 << 22
_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")
_SCALARS: Mapping[int, str] = {
    **{0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?"},
    **{10: "Q", 11: "q", 12: "d"},
}


class Values:
    """Reads values; what is wrong raises WeightsError that names the file."""

    def __init__(self, file: BinaryIO, path: Path, size: int) -> None:
        """file: at its first byte. size: its bytes."""
        self._file, self._path, self._size = file, path, size
        self.position = 0

    @property
    def left(self) -> int:
        """Bytes that are not read yet."""
        return self._size - self.position

    def number(self, code: str) -> Any:
        """A little-endian number by struct's code for it."""
        [found] = struct.unpack("<" + code, self.take(struct.calcsize("<" + code), "a number"))
        return found

    def count(self, what: str, at_least: int, limit: int = MAX_ITEMS) -> int:
        """How many items of `at_least` so many bytes each follow."""
        found: int = self.number("Q")
        if found > limit or found * at_least > self.left:
            raise self.wrong(
                f"it announces {found:,} {what} where {self.left:,} bytes are left, and the limit "
                f"is {limit:,}"
            )
        return found

    def text(self, what: str, limit: int = MAX_TEXT) -> str:
        """A string of UTF-8, its length in front of it."""
        length = self.number("Q")
        if length > limit:
            raise self.wrong(f"{what} is {length:,} bytes long, and the limit is {limit:,}")
        try:
            return self.take(length, what).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.wrong(f"{what} is not UTF-8 text") from error

    def value(self, key: str) -> Any:
        """A value behind its type: a number, a text, or a list of either."""
        kind = self.number("I")
        if kind == _ARRAY:
            return self._items(key)
        return self._one(kind, key)

    def take(self, count: int, what: str) -> bytes:
        """The next bytes."""
        if count > self.left:
            raise self.wrong(f"{what} of {count:,} bytes reaches beyond its end")
        found = self._file.read(count)
        if len(found) != count:
            raise self.wrong(f"{what} of {count:,} bytes reaches beyond its end")
        self.position += count
        return found

    def wrong(self, what: str) -> WeightsError:
        """The error for a header that is damaged."""
        return WeightsError(
            f"{self._path} cannot be read: {what} (byte {self.position:,} of {self._size:,}). The "
            "file is damaged or cut short; download it again."
        )

    def _one(self, kind: int, key: str) -> Any:
        if kind == _STRING:
            return self.text(f"{key[:80]!r}")
        if kind not in _SCALARS:
            raise self.wrong(f"{key[:80]!r} has a value of type {kind}, which GGUF has not")
        return self.number(_SCALARS[kind])

    def _texts(self, what: str, count: int) -> list[str]:
        """`text` so many times. A vocabulary and its merges are half a million of them, which would
        take longer than all weights if each had a call for each of its parts."""
        read, unpack, left = self._file.read, _LENGTH.unpack, self.left
        found: list[str] = []
        for _ in range(count):
            head = read(8)
            length = unpack(head)[0] if len(head) == 8 else MAX_TEXT + 1
            left -= 8 + length
            data = read(length) if length <= MAX_TEXT and left >= 0 else b""
            try:
                text = data.decode("utf-8")
            except UnicodeDecodeError as error:
                raise self.wrong(f"{what} are not UTF-8 text") from error
            if len(data) != length:
                raise self.wrong(f"a text among {what} is too long, or reaches beyond its end")
            found.append(text)
        self.position = self._size - left
        return found

    def _items(self, key: str) -> list[Any]:
        kind = self.number("I")
        what = f"items of {key[:80]!r}"
        if kind == _STRING:
            return self._texts(what, self.count(what, 8))
        if kind not in _SCALARS:
            raise self.wrong(f"{key[:80]!r} has items of type {kind}, which kept does not read")
        code = _SCALARS[kind]
        data = self.take(
            self.count(what, struct.calcsize("<" + code)) * struct.calcsize("<" + code), what
        )
        if code == "?":
            return [byte != 0 for byte in data]
        found = array(code, data) if array(code).itemsize == struct.calcsize("<" + code) else None
        if found is None:  # where C's types have other sizes
            return list(struct.unpack(f"<{len(data) // struct.calcsize('<' + code)}{code}", data))
        if sys.byteorder != "little":
            found.byteswap()
        return found.tolist()
