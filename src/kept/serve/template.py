"""An event of a stream made once, and filled with each text."""

from __future__ import annotations

from json.encoder import encode_basestring, encode_basestring_ascii
from typing import Final

from kept.serve.sse import sse

TEXT: Final = "\x00text\x00"  # where a template's text goes; no JSON object says it by chance
_HOLE: Final = b'"\\u0000text\\u0000"'


class Template:
    """The bytes of an event around the one text in it that changes.

    Making and writing the same object for each token of each stream takes most of what telling a
    token costs.
    """

    __slots__ = ("_head", "_tail")

    def __init__(self, data: object, event: str | None = None) -> None:
        """data: what `sse` would be given, with `TEXT` where the text is to be."""
        self._head, self._tail = sse(data, event).split(_HOLE)

    def filled(self, text: str) -> bytes:
        """The event, as `sse` would write it."""
        try:
            inner = encode_basestring(text).encode()
        except UnicodeEncodeError:  # half a surrogate pair; see `to_json`
            inner = encode_basestring_ascii(text).encode()
        return self._head + inner + self._tail
