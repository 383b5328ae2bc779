"""Layouts whose entries are in the order of their tokens, one run for each slot."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Self

import torch

from kept.cache.layout import GRAIN, Layout, Plan, plan_in_order
from kept.errors import CacheFullError
from kept.ops import Placement


def grown(length: int) -> int:
    """The capacity that holds `length` tokens, at most an eighth too large where it is not small.

    A multiple of an eighth of the power of two below, and of GRAIN: what growing copies stays in
    proportion to what is appended, and what stands empty stays small.
    """
    unit = max(GRAIN, (1 << max(0, length - 1).bit_length()) // 16)
    return max(1, -(-length // unit)) * unit


class OrderedLayout(Layout):
    """Entries in the order of their tokens, so that a slot needs no notes of its own."""

    def _with(self, num_slots: int, capacity: int) -> Self:
        twin = copy(self)
        twin.num_slots, twin.capacity = num_slots, capacity
        return twin

    def relaid(self, capacity: int) -> Self:
        """See `Layout.relaid`."""
        return self._with(self.num_slots, capacity)

    def truncated(self, cuts: Sequence[tuple[int, int]]) -> Self:
        """Nothing to forget: lengths say what counts."""
        return self

    def selected(self, indices: Sequence[int], lengths: Sequence[int]) -> Self:
        """See `Layout.selected`."""
        return self._with(len(indices), self.capacity)

    def joined(self, other: Layout) -> Self:
        """See `Layout.joined`."""
        return self._with(self.num_slots + other.num_slots, self.capacity)

    def fork(self, lengths: Sequence[int]) -> Self:
        """See `Layout.fork`."""
        return copy(self)


class ContiguousLayout(OrderedLayout):
    """Token i lies in entry i. Grows by a share of its size, or is fixed and refuses more."""

    def __init__(self, num_slots: int, capacity: int = 0, *, fixed: bool = False) -> None:
        super().__init__(num_slots, capacity)
        self.fixed = fixed

    @property
    def limit(self) -> int | None:
        """See `Layout.limit`."""
        return self.capacity if self.fixed else None

    @property
    def traits(self) -> dict[str, object]:
        """See `Layout.traits`."""
        return {"layout": "contiguous", "max_length": self.limit}

    def reserve(self, lengths: Sequence[int], counts: Sequence[int]) -> int | None:
        """See `Layout.reserve`."""
        needed = max(a + b for a, b in zip(lengths, counts, strict=True))
        if needed <= self.capacity:
            return None
        if self.fixed:
            raise CacheFullError(
                f"the static cache holds {self.capacity} tokens a sequence and {needed} would be "
                "stored; make it longer (max_cache_len), truncate it, or use the dynamic cache"
            )
        return grown(needed)

    def plan(
        self,
        starts: tuple[int, ...],
        slots: tuple[int, ...],
        lengths: Sequence[int],
        device: torch.device,
    ) -> Plan:
        """See `Layout.plan`."""
        return plan_in_order(starts, slots, lengths, device)

    @property
    def placement(self) -> Placement:
        """See `Layout.placement`."""
        return Placement(self.capacity)

    def check_truncate(self, slot: int, length: int, before: int) -> None:
        """Any length can be gone back to."""

    def entries_from(self, slot: int, begin: int, end: int) -> slice | list[int]:
        """See `Layout.entries_from`."""
        return slice(begin, end)

    def entries(self, slot: int, begin: int, end: int) -> list[int]:
        """See `Layout.entries`."""
        return list(range(begin, end))
