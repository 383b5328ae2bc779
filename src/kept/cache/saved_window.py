"""Tokens of layers with a window as a file has them, before they lie in blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kept.blocks import BLOCK, blocks_of
from kept.cache.contiguous import ContiguousLayout
from kept.cache.eviction_file import read_count
from kept.cache.window_blocks import first_needed


class SavedWindow(ContiguousLayout):
    """Of each slot the tokens in the blocks of sinks and from some block on, one after the other.

    window, sinks: of the layers. gone: (slots,) the tokens that are not there.
    """

    def __init__(
        self, lengths: Sequence[int], window: int, sinks: int, begins: Sequence[int]
    ) -> None:
        """begins: (slots,) the first token behind those of sinks that is there."""
        sunk = blocks_of(sinks) * BLOCK
        self.gone = tuple(range(sunk, max(sunk, begin)) for begin in begins)
        pairs = zip(lengths, self.gone, strict=True)
        super().__init__(len(lengths), max(length - len(gone) for length, gone in pairs))
        self.window, self.sinks = window, sinks

    @classmethod
    def read(cls, fields: Mapping[str, Any], lengths: Sequence[int]) -> SavedWindow:
        """What `description.write_layout` has of such a layout. Raises ValueError, TypeError or
        LookupError for what cannot be."""
        window, sinks = read_count(fields["window"], least=1), read_count(fields.get("sinks", 0))
        begins = [read_count(begin) for begin in fields["begins"]]
        for begin, length in zip(begins, lengths, strict=True):
            if begin % BLOCK or begin > first_needed(window, length):
                raise ValueError(f"{length} tokens, of which those from {begin} on are there")
        return cls(lengths, window, sinks, begins)

    def entries_from(self, slot: int, begin: int, end: int) -> slice:
        """See `Layout.entries_from`; begin: 0, as a file holds all there is."""
        assert not begin
        return slice(0, end - len(self.gone[slot]))
