"""Stop strings: cut a growing text exactly where the first one begins."""

from __future__ import annotations


class StopChecker:
    """Passes a text on up to the first stop string, and never shows the beginning of one.

    The cut is where a search through the whole text would put it: at the earliest start of any
    stop string, however the text was cut into pieces. So when "bc" is complete but the "abcd"
    that began before it still can be, the checker waits for the next text.

        stops "</s>":   fed  "one <"   "/s"   "> two"
                      shown  "one "    ""     ""        stopped

    stopped: whether a stop string has been found; what is fed afterwards is dropped.
    """

    def __init__(self, stop_strings: tuple[str, ...]) -> None:
        """Take stop strings, none of them empty; none at all passes everything on."""
        self.stop_strings = stop_strings
        self.stopped = False
        self._longest = max(map(len, self.stop_strings), default=0)
        self._first_characters = frozenset(stop[0] for stop in self.stop_strings)
        self._held = ""

    def add(self, text: str) -> str:
        """Take the next piece of text, give what is now certain to come before any stop string.

        Sets `stopped` when the first stop string is known.
        """
        if self.stopped:
            return ""
        self._held += text
        found = self._find()
        pending = self._pending_start(len(self._held) if found is None else found)
        return self._cut(pending) if pending == found else self._show(pending)

    def finish(self) -> str:
        """Say that no more text will come, and give what was withheld and is no stop string."""
        if self.stopped:
            return ""
        found = self._find()
        return self._show(len(self._held)) if found is None else self._cut(found)

    def _find(self) -> int | None:
        """Give the start of the earliest complete stop string among the withheld."""
        starts = (self._held.find(stop) for stop in self.stop_strings)
        return min((start for start in starts if start >= 0), default=None)

    def _pending_start(self, limit: int) -> int:
        """Give the first place below `limit` where a stop string may have begun, else `limit`."""
        for start in range(max(0, len(self._held) - self._longest + 1), limit):
            if self._held[start] in self._first_characters:
                tail = self._held[start:]
                if any(stop.startswith(tail) for stop in self.stop_strings):
                    return start
        return limit

    def _show(self, length: int) -> str:
        shown, self._held = self._held[:length], self._held[length:]
        return shown

    def _cut(self, start: int) -> str:
        shown, self._held = self._held[:start], ""
        self.stopped = True
        return shown
