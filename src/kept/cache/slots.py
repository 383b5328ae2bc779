"""Operations on the slots of a cache that come down to two of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from kept.cache.indices import check_num_slots, read_all_whole, read_whole
from kept.errors import OptionError


class Slots(ABC):
    """Sequences side by side, one slot each."""

    @property
    @abstractmethod
    def num_slots(self) -> int:
        """How many sequences there is room for."""

    @abstractmethod
    def truncate(self, length: int | Sequence[int]) -> None:
        """Keep at most the first `length` tokens of each slot (one number, or one per slot)."""

    @abstractmethod
    def select(self, indices: Sequence[int]) -> None:
        """Slot i becomes a copy of what slot indices[i] was; there are len(indices) slots then."""

    def reset(self) -> None:
        """Forget every token; buffers stay allocated, or blocks go back to their pool, and encoder
        inputs stay attended."""
        self.truncate(0)

    def reorder(self, indices: Sequence[int]) -> None:
        """`select` that keeps the number of slots, as beam search moves beams."""
        order = read_all_whole(indices, "a slot to reorder")
        if len(order) != self.num_slots:
            raise OptionError(
                f"reorder takes one source for each of {self.num_slots} slots, not {len(order)}; "
                "use select() to change their number"
            )
        self.select(order)

    def repeat(self, count: int) -> None:
        """Repeat each slot `count` times in place: 0, 0, 1, 1, ... for 2."""
        count = read_whole(count, "the count to repeat")
        if count < 1:
            raise OptionError(f"cannot repeat slots {count} times; give 1 or more")
        check_num_slots(count * self.num_slots, f"repeat {count}")
        self.select([slot for slot in range(self.num_slots) for _ in range(count)])
