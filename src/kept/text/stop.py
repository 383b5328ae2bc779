"""Stop strings: cut a growing text exactly where the first one begins."""

from __future__ import annotations

from copy import copy


class StopChecker:
    """Passes a text on up to the first stop string, and never shows the beginning of one.

    The cut is where a search through the whole text would put it: at the earliest start of any
    stop string, however the text was cut into pieces. So when "bc" is complete but the "abcd"
    that began before it still can be, the checker waits for the next text.

        stops "</s>":   fed  "one <"   "/s"   "> two"
                      shown  "one "    ""     ""        stopped

    The search also goes through marks, the texts of special tokens, which are never shown.

    stopped: whether a stop string has been found; what is fed afterwards is dropped. found: which,
    of those that begin in its place the shortest, whatever the pieces.
    """

    def __init__(self, stop_strings: tuple[str, ...]) -> None:
        """Take stop strings, none of them empty; none at all passes everything on."""
        self.stop_strings = stop_strings
        self.stopped = False
        self.found: str | None = None
        self._longest = max(map(len, self.stop_strings), default=0)
        self._first_characters = frozenset(stop[0] for stop in self.stop_strings)
        self._held = ""
        self._hidden: tuple[tuple[int, int], ...] = ()  # where marks lie in what is held
        self._fed = 0  # characters of text, marks not counted
        self._waiting: tuple[tuple[int, str], ...] = ()  # marks, by how much text comes before

    def add(self, text: str) -> str:
        """Take the next piece of text, give what is now certain to come before any stop string.

        Sets `stopped` when the first stop string is known.
        """
        if self.stopped:
            return ""
        begin, self._fed = self._fed, self._fed + len(text)
        used = 0
        for place, mark in self._due():
            self._held += text[used : place - begin]
            used = max(used, place - begin)
            self._hide(mark)
        self._held += text[used:]
        return self._advance()

    def mark(self, text: str, pending: str = "") -> str:
        """Take a special token's text, as `add` does; pending: text that is fed only later.

        A stop string that the mark completes counts at once, with `pending` as it stands.
        """
        if self.stopped:
            return ""
        self._waiting += ((self._fed + len(pending), text),)
        if not pending:
            return self.add("")
        ended = copy(self)
        shown = ended.add(pending)
        if ended.stopped:
            vars(self).update(vars(ended))
            return shown
        return ""

    def finish(self) -> str:
        """Say that no more text will come, and give what was withheld and is no stop string."""
        if self.stopped:
            return ""
        for _, mark in self._waiting:
            self._hide(mark)
        self._waiting = ()
        found = self._find()
        return self._show(len(self._held)) if found is None else self._cut(found)

    def _due(self) -> list[tuple[int, str]]:
        """Take the marks whose place has come."""
        due = [found for found in self._waiting if found[0] <= self._fed]
        self._waiting = self._waiting[len(due) :]
        return due

    def _hide(self, mark: str) -> None:
        start = len(self._held)
        self._held += mark
        self._hidden += ((start, start + len(mark)),)

    def _advance(self) -> str:
        found = self._find()
        pending = self._pending_start(len(self._held) if found is None else found)
        return self._cut(pending) if pending == found else self._show(pending)

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
        """Let go of so much of what is held, and give the text of it."""
        shown, begin = [], 0
        for start, end in self._hidden:
            shown.append(self._held[begin : min(start, length)])
            begin = max(begin, end)
        shown.append(self._held[begin:length])
        self._held = self._held[length:]
        moved = ((max(0, start - length), end - length) for start, end in self._hidden)
        self._hidden = tuple(span for span in moved if span[1] > 0)
        return "".join(shown)

    def _cut(self, start: int) -> str:
        complete = [stop for stop in self.stop_strings if self._held.startswith(stop, start)]
        self.found = min(complete, key=len)
        shown = self._show(start)
        self._held = ""
        self.stopped = True
        return shown
