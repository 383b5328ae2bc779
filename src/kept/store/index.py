"""Which blocks a folder holds, and in which files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from kept.blocks import BLOCK
from kept.store.names import Entry


class Place(NamedTuple):
    """Block number `position` of a file."""

    entry: Entry
    position: int

    @property
    def num_tokens(self) -> int:
        """Tokens that it holds."""
        return self.entry.num_last if self.position == len(self.entry.tags) - 1 else BLOCK


class Index:
    """Blocks by their tags. Not safe to use from several threads at once."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}  # by name
        self._places: dict[str, dict[str, Place]] = {}  # by tag, then by the file's name
        self._after: dict[str, dict[str, None]] = {}  # tags of what follows one, the latest last

    def add(self, entry: Entry) -> None:
        """Note a file."""
        if entry.name in self.entries:
            return
        self.entries[entry.name] = entry
        before = entry.after
        for position, tag in enumerate(entry.tags):
            self._places.setdefault(tag, {})[entry.name] = Place(entry, position)
            self._after.setdefault(before, {})[tag] = None
            before = tag

    def remove(self, name: str) -> None:
        """Forget a file."""
        entry = self.entries.pop(name, None)
        if entry is None:
            return
        before = entry.after
        for tag in entry.tags:
            places = self._places[tag]
            places.pop(name, None)
            if not places:
                del self._places[tag]
                following = self._after.get(before, {})
                following.pop(tag, None)
                if not following:
                    self._after.pop(before, None)
            before = tag

    def keep(self, names: Iterable[str]) -> None:
        """Forget all files but these."""
        for name in self.entries.keys() - set(names):
            self.remove(name)

    def find(self, tag: str) -> Place | None:
        """Where a block lies, None: nowhere."""
        places = self._places.get(tag)
        return None if places is None else next(reversed(places.values()))

    def following(self, tag: str) -> list[str]:
        """The tags of the blocks that follow one, the latest first."""
        return list(reversed(self._after.get(tag, {})))
