"""Writing to a person or to a program: colours and control characters differ between the two."""

from __future__ import annotations

import os
from typing import TextIO

# A model, or a file it was fed, can write escape sequences; on a terminal they are shown, not run.
_CONTROLS = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n"}
_CONTROLS |= {0x7F: "\u2421"} | dict.fromkeys(range(0x80, 0xA0), "\ufffd")

BOLD, DIM = "1", "2"


def styled(text: str, style: str, stream: TextIO) -> str:
    """`text` in bold or dim on a terminal that has colours; NO_COLOR and TERM=dumb are heeded."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain or not text or not stream.isatty() else f"\x1b[{style}m{text}\x1b[0m"


class Writer:
    """Writes pieces of text at once, and knows whether the last line was ended."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._open_line = False

    def write(self, text: str, style: str | None = None) -> None:
        """Write and flush. On a terminal control characters become visible."""
        if not text:
            return
        self._open_line = not text.endswith("\n")
        if self.stream.isatty():
            text = text.translate(_CONTROLS)
        self.stream.write(styled(text, style, self.stream) if style else text)
        self.stream.flush()

    def end_line(self) -> None:
        """End the line, unless it has been."""
        if self._open_line:
            self.write("\n")
