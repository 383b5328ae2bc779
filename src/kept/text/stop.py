"""Stop strings: cut a growing text exactly where the first one begins."""

from collections.abc import Sequence
from dataclasses import dataclass

from kept.errors import OptionError


@dataclass(frozen=True, slots=True)
class StopMatch:
    """The stop string that ended a text, at characters [start, end) of everything fed."""

    stop: str
    start: int
    end: int


def check_stop_strings(stop_strings: str | Sequence[str]) -> tuple[str, ...]:
    """Give one or many stop strings as a tuple.

    Raises `OptionError` for an empty string and for anything that is not text.
    """
    stops = (stop_strings,) if isinstance(stop_strings, str) else tuple(stop_strings)
    for stop in stops:
        if not isinstance(stop, str):
            raise OptionError(
                f"stop_strings holds {stop!r} of type {type(stop).__name__}; each must be a string"
            )
        if not stop:
            raise OptionError(
                "stop_strings holds an empty string, which would stop every text at its first "
                "character; leave it out"
            )
    return stops


class StopChecker:
    """Passes a text on up to the first stop string, and never shows the beginning of one.

    The cut is where a search through the whole text would put it: at the earliest start of any
    stop string, however the text was cut into pieces. So when "bc" is complete but the "abcd"
    that began before it still can be, the checker waits for the next text. Of two that start
    together the shorter is reported; the text is the same.

        stops "</s>":   fed  "one <"   "/s"   "> two"
                      shown  "one "    ""     ""         match.start 4, match.end 8
    """

    def __init__(self, stop_strings: str | Sequence[str]) -> None:
        """Take one or many stop strings; none at all passes everything on."""
        self.stop_strings = check_stop_strings(stop_strings)
        self.match: StopMatch | None = None
        self.num_shown = 0
        self._longest = max(map(len, self.stop_strings), default=0)
        self._first_characters = frozenset(stop[0] for stop in self.stop_strings)
        self._held = ""

    @property
    def stopped(self) -> bool:
        """Whether a stop string has been found; what is fed afterwards is dropped."""
        return self.match is not None

    def add(self, text: str) -> str:
        """Take the next piece of text, give what is now certain to come before any stop string.

        Sets `match` when the first stop string is known. `num_shown` counts the characters given
        so far; when stopped it equals `match.start`.
        """
        if self.match is not None:
            return ""
        self._held += text
        found = self._find()
        pending = self._pending_start(found[0] if found else len(self._held))
        if found is not None and pending == found[0]:
            return self._cut(*found)
        return self._show(pending)

    def finish(self) -> str:
        """Say that no more text will come, and give what was withheld and is no stop string."""
        if self.match is not None:
            return ""
        found = self._find()
        return self._cut(*found) if found else self._show(len(self._held))

    def _find(self) -> tuple[int, str] | None:
        """Give start and text of the earliest complete stop string among the withheld."""
        starts = ((self._held.find(stop), len(stop), stop) for stop in self.stop_strings)
        start, _, stop = min((hit for hit in starts if hit[0] >= 0), default=(0, 0, ""))
        return (start, stop) if stop else None

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
        self.num_shown += length
        return shown

    def _cut(self, start: int, stop: str) -> str:
        shown = self._show(start)
        self.match = StopMatch(stop, self.num_shown, self.num_shown + len(stop))
        self._held = ""
        return shown
