"""Which entry of a slot's buffer holds which token: arithmetic on lengths, no keys or values.

All layers of a cache that lay their tokens out alike share one layout, so its work is done once a
step. A step goes plan, then (once every layer has stored its keys) commit; a step that fails is
simply never committed. Layouts are replaced, not changed: what moves tokens gives another one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from kept.ops import Placement, Span

GRAIN = 64  # tokens a growing buffer begins with


class Copy(NamedTuple):
    """A block, another that comes to hold the same, and how many of its first entries it needs."""

    source: int
    copied: int
    num_entries: int


Copies = Sequence[Copy]


class Writes:
    """Where a step's new keys go.

    run: (first slot, number of slots, first entry, T) where adjacent slots write the same entries
    each, else None. rows: what gives the slots and entries (N,) of the packed rows, asked where
    there is no run, and not by kernels, which find them by themselves.
    """

    def __init__(
        self,
        run: tuple[int, int, int, int] | None,
        rows: Callable[[], tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        self.run, self._rows = run, rows

    @cached_property
    def rows(self) -> tuple[Tensor, Tensor]:
        """Slots and entries, (N,) each, one per packed row."""
        assert self._rows is not None
        return self._rows()


@dataclass(frozen=True, slots=True)
class Plan:
    """One step of one layout. after: the layout with the step's tokens, where it is another one.
    copies: what is to be copied before the step."""

    span: Span
    writes: Writes
    after: Layout | None = None
    copies: Copies = ()


class Layout(ABC):
    """The bookkeeping of one way to lay tokens out.

    capacity: entries each slot has. num_slots: sequences it has room for.
    """

    def __init__(self, num_slots: int, capacity: int) -> None:
        self.num_slots = num_slots
        self.capacity = capacity

    @property
    def limit(self) -> int | None:
        """How many tokens a sequence can have at most; None: any number."""
        return None

    @property
    @abstractmethod
    def traits(self) -> dict[str, object]:
        """What two layouts have in common that treat tokens alike, by name."""

    @abstractmethod
    def reserve(self, lengths: Sequence[int], counts: Sequence[int]) -> int | None:
        """The capacity needed before sequences of `lengths` take `counts` more tokens; None: it
        has that.

        Raises CacheFullError where a fixed capacity cannot hold them.
        """

    def check_room(self, num_slots: int, count: int) -> None:
        """Raise CacheFullError where there is no room for so many empty slots of `count` tokens."""
        self.reserve([0], [count])

    def copy_blocks(self, copies: Copies) -> None:
        """Let blocks, which nobody reads yet, hold what others do; mutates the layers' buffers."""
        assert not copies, "slots have one block each"

    @abstractmethod
    def relaid(self, capacity: int) -> Layout:
        """As it is once every layer has another capacity."""

    @abstractmethod
    def plan(
        self,
        starts: tuple[int, ...],
        slots: tuple[int, ...],
        lengths: Sequence[int],
        device: torch.device,
    ) -> Plan:
        """Place a step's rows. lengths: (B,) before the step, of the sequences in `slots`."""

    @property
    @abstractmethod
    def placement(self) -> Placement:
        """Which entry holds which token, as native kernels work it out for themselves."""

    def committed(self, plan: Plan) -> Layout:
        """As it is with a step's tokens."""
        return plan.after or self

    def used(self, lengths: Sequence[int]) -> list[int]:
        """How many entries of each slot, or block, are in use. lengths: (slots,) tokens of each."""
        return list(lengths)

    def max_step(self, length: int) -> int | None:
        """How many tokens a sequence of `length` may take in one step; None: any number."""
        return None

    def let_go(self, slots: Sequence[int], lengths: Sequence[int]) -> Layout:
        """Without the blocks that no later token of these slots sees. lengths: (B,) of these."""
        return self

    @abstractmethod
    def check_truncate(self, slot: int, length: int, before: int) -> None:
        """Raise CacheError if the slot cannot go back from `before` to `length` tokens."""

    @abstractmethod
    def truncated(self, cuts: Sequence[tuple[int, int]]) -> Layout:
        """Without all but the first tokens of some slots. cuts: slots, and how many stay there."""

    @abstractmethod
    def selected(self, indices: Sequence[int], lengths: Sequence[int]) -> Layout:
        """Slot i a copy of what slot indices[i] is. lengths: (slots,) tokens of each so far."""

    @abstractmethod
    def joined(self, other: Layout) -> Layout:
        """With the slots of a layout of the same kind and capacity after its own."""

    @abstractmethod
    def fork(self, lengths: Sequence[int]) -> Layout:
        """An independent copy. lengths: (slots,) tokens of each."""

    def ahead(
        self, slots: Sequence[int], lengths: Sequence[int], count: int
    ) -> tuple[Layout, Copies]:
        """With room for `count` tokens more of each of the slots, fewer where it has room for some
        anyway, and what is to be copied before they are written. lengths: (B,) of these.

        Raises CacheFullError, changing nothing, where there are too few blocks.
        """
        return self, ()

    def room(self, slots: Sequence[int], lengths: Sequence[int]) -> int:
        """How many tokens more there is room for in each of the slots. lengths: (B,) of these."""
        return self.capacity - max(lengths)

    def planned(
        self,
        starts: tuple[int, ...],
        slots: tuple[int, ...],
        lengths: Sequence[int],
        device: torch.device,
    ) -> Plan:
        """The plan of a step that there is room for; arguments as of `plan`."""
        return self.plan(starts, slots, lengths, device)

    @abstractmethod
    def entries_from(self, slot: int, begin: int, end: int) -> slice | list[int]:
        """The entries of those of tokens begin to end of a slot that are still there."""

    @abstractmethod
    def entries(self, slot: int, begin: int, end: int) -> list[int]:
        """The entries that hold tokens begin to end of a slot."""


def lasting() -> torch.inference_mode:
    """Make tensors in this block that can be written to in and out of inference mode.

    One born in inference mode could never be written to outside of it, and a cache outlives the
    generation that filled it.
    """
    return torch.inference_mode(False)


def make_writes(
    starts: tuple[int, ...],
    slots: tuple[int, ...],
    entries: Sequence[range | list[int]],
    device: torch.device,
) -> Writes:
    """Writes of each sequence's rows to its `entries`, as one run where they allow it."""
    first = entries[0]
    together = slots == tuple(range(slots[0], slots[0] + len(slots)))
    if together and isinstance(first, range) and all(e == first for e in entries):
        return Writes((slots[0], len(slots), first.start, len(first)))

    def rows() -> tuple[Tensor, Tensor]:
        counts, each, flat = (
            torch.tensor(list(x), dtype=torch.int64, device="cpu")
            for x in ((b - a for a, b in pairwise(starts)), slots, chain.from_iterable(entries))
        )
        return each.repeat_interleave(counts).to(device), flat.to(device)

    return Writes(None, rows)


def lengths_after(starts: tuple[int, ...], lengths: Sequence[int]) -> tuple[int, ...]:
    """(B,) how long sequences of `lengths` are once each has taken its rows of a step."""
    counts = (b - a for a, b in pairwise(starts))
    return tuple(a + b for a, b in zip(lengths, counts, strict=True))


def plan_in_order(
    starts: tuple[int, ...],
    slots: tuple[int, ...],
    stored: Sequence[int],
    device: torch.device,
) -> Plan:
    """A step whose rows go behind the (B,) entries that each slot has stored, all in one run."""
    after = lengths_after(starts, stored)
    entries = [range(a, b) for a, b in zip(stored, after, strict=True)]
    span = Span(starts, slots, after, max(after), device)
    return Plan(span, make_writes(starts, slots, entries, device))
