"""Tokens of layers with a window as a file has them, before they lie in blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kept.blocks import BLOCK
from kept.cache.contiguous import ContiguousLayout
from kept.cache.eviction_file import read_count
from kept.cache.window_blocks import first_needed


class SavedWindow(ContiguousLayout):
    """Of each slot the tokens from some block on, one after the other.

    window: of the layers. begins: (slots,) the first token that is there.
    """

    def __init__(self, lengths: Sequence[int], window: int, begins: Sequence[int]) -> None:
        counts = [n - begin for n, begin in zip(lengths, begins, strict=True)]
        super().__init__(len(lengths), max(counts))
        self.window, self.begins = window, tuple(begins)

    @classmethod
    def read(cls, fields: Mapping[str, Any], lengths: Sequence[int]) -> SavedWindow:
        """What `description.write_layout` has of such a layout. Raises ValueError, TypeError or
        LookupError for what cannot be."""
        window = read_count(fields["window"], least=1)
        begins = [read_count(begin) for begin in fields["begins"]]
        for begin, length in zip(begins, lengths, strict=True):
            if begin % BLOCK or begin > first_needed(window, length):
                raise ValueError(f"{length} tokens, of which those from {begin} on are there")
        return cls(lengths, window, begins)

    def entries_from(self, slot: int, begin: int, end: int) -> slice:
        """See `Layout.entries_from`."""
        first = self.begins[slot]
        return slice(max(begin, first) - first, end - first)
