"""Where the prompt comes from: the argument, a file, or stdin."""

from __future__ import annotations

import codecs
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from kept.errors import OptionError

_HOW = 'give it as an argument (kept generate "Once upon a time"), with --file, or through a pipe'

_MAX_BYTES: Final = 256 << 20  # far above what any context holds

# UTF-32's little-endian mark begins with UTF-16's.
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def read_prompts(prompt: str | None, file: Path | None, lines: bool) -> list[str]:
    """One prompt, or with `lines` one per line that is not blank.

    `prompt` "-" is stdin, and so is neither prompt nor file where stdin is no terminal. The last
    line's end is no part of a prompt that is read. Raises OptionError for no prompt, for two, and
    for bytes that are no text (see `decode`).
    """
    if prompt is not None and file is not None:
        raise OptionError("there is a prompt and a --file; leave one of the two out")
    if prompt not in (None, "-"):
        if lines:
            raise OptionError("--lines splits a --file or stdin, and the prompt is an argument")
        return [check_text(prompt, "the prompt")]
    if file is not None:
        text = _without_line_end(decode(_read(file), str(file)))
    else:
        text = _read_stdin(explicit=prompt == "-")
    if not lines:
        return [text]
    # Not str.splitlines, which also ends a line at a form feed or U+2028.
    ends = text.replace("\r\n", "\n").replace("\r", "\n")
    found = [line for line in ends.split("\n") if line.strip()]
    if not found:
        raise OptionError(f"--lines found no prompt in {file or 'stdin'}: every line is blank")
    return found


def read_lines(source: BinaryIO, where: str) -> Iterator[str]:
    """Give each line of a pipe as it comes, with its end.

    Raises OptionError that names the line, as `decode` does and for one longer than any prompt.
    """
    for number in itertools.count(1):
        line = source.readline(_MAX_BYTES + 1)
        if not line:
            return
        named = f"line {number} of {where}"
        yield decode(_bounded(line, named), named)


def check_text(text: str, where: str) -> str:
    """Return the text; raises OptionError if it came from bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise OptionError(
            f"{where} is not UTF-8 text (character {error.start + 1}); convert it first"
        ) from None
    return text


def decode(data: bytes, where: str) -> str:
    """Read UTF-8, or what a mark at the beginning says: UTF-8, -16 or -32; the mark is no text.

    Raises OptionError that names the first byte that is none, and for zeros, which text of
    another encoding is full of.
    """
    mark, encoding = next((m for m in _MARKS if data.startswith(m[0])), (b"", "utf-8"))
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        at = len(mark) + error.start
        raise OptionError(
            f"{where} is not {encoding.upper()} text (byte {data[at]:#04x} at offset {at:,}); "
            "convert it first, for example with iconv"
        ) from None
    if "\0" in text:
        raise OptionError(
            f"{where} is no text: it has a zero at character {text.index(chr(0)):,}. If it is "
            "UTF-16 without a mark, convert it first, for example with iconv"
        )
    return text


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return _read_bounded(opened, str(file))
    except OSError as error:
        raise OptionError(f"--file {file} cannot be read: {error.strerror}") from error


def _read_bounded(source: BinaryIO, where: str) -> bytes:
    """Read to the end. Raises OptionError for more than any prompt has, as a device may give."""
    return _bounded(source.read(_MAX_BYTES + 1), where)


def _bounded(data: bytes, where: str) -> bytes:
    if len(data) > _MAX_BYTES:
        raise OptionError(
            f"{where} holds more than {_MAX_BYTES:,} bytes, which is no prompt; give a shorter one"
        )
    return data


def _read_stdin(explicit: bool) -> str:
    if sys.stdin is None or (sys.stdin.isatty() and not explicit):
        raise OptionError(f"there is no prompt; {_HOW}")
    data = _read_bounded(sys.stdin.buffer, "stdin")
    if not data and not explicit:
        raise OptionError(f"there is no prompt: stdin is empty; {_HOW}")
    return _without_line_end(decode(data, "stdin"))


def _without_line_end(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")
