"""Where the prompt comes from: the argument, a file, or stdin."""

from __future__ import annotations

import sys
from pathlib import Path

from kept.errors import OptionError

_HOW = 'give it as an argument (kept generate "Once upon a time"), with --file, or through a pipe'


def read_prompts(prompt: str | None, file: Path | None, lines: bool) -> list[str]:
    """One prompt, or with `lines` one per line that is not blank.

    `prompt` "-" is stdin, and so is neither prompt nor file where stdin is no terminal. The last
    line's end is no part of a prompt that is read. Raises OptionError for no prompt, for two, and
    for bytes that are not UTF-8.
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
    found = [line for line in text.splitlines() if line.strip()]
    if not found:
        raise OptionError(f"--lines found no prompt in {file or 'stdin'}: every line is blank")
    return found


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
    """Read UTF-8. Raises OptionError that names the first byte that is none."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise OptionError(
            f"{where} is not UTF-8 text (byte {data[error.start]:#04x} at offset {error.start:,}); "
            "convert it first, for example with iconv"
        ) from None


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise OptionError(f"--file {file} cannot be read: {error.strerror}") from error


def _read_stdin(explicit: bool) -> str:
    if sys.stdin is None or (sys.stdin.isatty() and not explicit):
        raise OptionError(f"there is no prompt; {_HOW}")
    data = sys.stdin.buffer.read()
    if not data and not explicit:
        raise OptionError(f"there is no prompt: stdin is empty; {_HOW}")
    return _without_line_end(decode(data, "stdin"))


def _without_line_end(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")
