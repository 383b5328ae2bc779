"""The ring: the first tokens (sinks) for good, and the last ones wrapped around.

    window 4, one sink, slack 2, after 12 tokens:

        entry     0 | 1  2  3  4  5  6
        token     0 | 7  8  9 10 11  6        6 and 7 are out of the window, kept as slack

`slack` is how far a full ring can be truncated: a token leaves only when `slack` newer ones have
pushed it on. A step with more new tokens than that widens the ring for as long as it lasts. A step
that fails has already overwritten as many of the oldest tokens as it brought; none of them is in
the window, so only slack is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from kept.cache.contiguous import grown
from kept.cache.layout import Layout, Plan, Relayout, lasting, lengths_after, make_writes
from kept.errors import CacheError
from kept.ops import Placement, Span

SLACK = 64  # tokens a full ring can be truncated by, unless asked otherwise


class RingLayout(Layout):
    """Keeps `sinks` first tokens and at least the last `window` ones of each sequence."""

    def __init__(self, num_slots: int, window: int, sinks: int = 0, slack: int = SLACK) -> None:
        super().__init__(num_slots, 0)
        self.window, self.sinks, self.slack = window, sinks, slack
        # Which token each entry holds, -1: none. Kept rather than computed, because truncating
        # and a step that failed leave entries whose token no formula over the length knows.
        with lasting():
            self.held = torch.full(
                (num_slots, 0), -1, dtype=torch.int64, device="cpu"
            )  # (slots, capacity)

    @property
    def full(self) -> int:
        """Entries a slot needs once its sequence is long."""
        return self.sinks + self.window + self.slack

    @property
    def num_bytes(self) -> int:
        """See `Layout.num_bytes`: a label of 8 bytes an entry, once for all layers."""
        return self.held.nbytes

    @property
    def traits(self) -> dict[str, object]:
        """See `Layout.traits`."""
        return {
            "layout": "ring",
            "window": self.window,
            "sinks": self.sinks,
            "slack": self.slack,
        }

    def reserve(self, lengths: Sequence[int], counts: Sequence[int]) -> Relayout | None:
        """See `Layout.reserve`."""
        longest = max(a + b for a, b in zip(lengths, counts, strict=True))
        widest = max(self.full, self.sinks + self.window - 1 + max(counts))
        needed = min(longest, widest)
        if needed <= self.capacity:
            return None
        capacity = min(grown(needed), max(self.full, needed))
        return Relayout(capacity, self._gather(capacity))

    def _place(self, tokens: Tensor, capacity: int) -> Tensor:
        wrapped = self.sinks + (tokens - self.sinks) % max(capacity - self.sinks, 1)
        return torch.where(tokens < self.sinks, tokens, wrapped)

    def _gather(self, capacity: int) -> Tensor | None:
        """Which old entry each entry takes at another capacity; None: all stay in place."""
        held = self.held
        here = torch.arange(held.shape[1], dtype=torch.int64, device="cpu").expand_as(held)
        if not bool(((held >= 0) & (here != held)).any()) and capacity >= self.capacity:
            return None
        gather = torch.full((self.num_slots, capacity), -1, dtype=torch.int64, device="cpu")
        for slot in range(self.num_slots):
            tokens, order = held[slot].sort()
            # Of tokens that share a place the newest stays; the sinks have places of their own.
            oldest = tokens[-1] - max(capacity - self.sinks, 1) + 1
            kept = (tokens >= 0) & ((tokens < self.sinks) | (tokens >= oldest))
            gather[slot, self._place(tokens[kept], capacity)] = order[kept]
        return gather

    def _with(self, held: Tensor) -> RingLayout:
        """Of the same window, with other labels (slots, capacity) that nobody else writes to."""
        twin = copy(self)
        twin.held, (twin.num_slots, twin.capacity) = held, held.shape
        return twin

    def relaid(self, change: Relayout) -> RingLayout:
        """See `Layout.relaid`."""
        with lasting():
            held = torch.full(
                (self.num_slots, change.capacity), -1, dtype=torch.int64, device="cpu"
            )
            if change.gather is None:
                held[:, : self.capacity] = self.held
            elif self.capacity:
                taken = self.held.gather(1, change.gather.clamp(min=0))
                held.copy_(torch.where(change.gather >= 0, taken, -1))
        return self._with(held)

    def plan(
        self,
        starts: tuple[int, ...],
        slots: tuple[int, ...],
        lengths: Sequence[int],
        device: torch.device,
    ) -> Plan:
        """See `Layout.plan`."""
        after = lengths_after(starts, lengths)
        index = self.held[list(slots)].clone()  # (B, capacity)
        entries: list[range | list[int]] = []
        for row, (slot, begin, end) in enumerate(zip(slots, lengths, after, strict=True)):
            tokens = torch.arange(begin, end, dtype=torch.int64, device="cpu")
            places = self._place(tokens, self.capacity)
            index[row, places] = tokens
            self.held[slot, places] = -1  # about to be overwritten, whether or not the step ends
            entries.append(_as_range(places))
        width = min(self.capacity, max(after))
        span = Span(
            starts,
            slots,
            after,
            width,
            device,
            index=index[:, :width].to(device),
            window=self.window,
            sinks=self.sinks,
        )
        return Plan(span, make_writes(starts, slots, entries, device), index[:, :width])

    @property
    def placement(self) -> Placement:
        """See `Layout.placement`. Labels say which tokens are gone; all that a step's queries may
        see are there, in the entries that `_place` gives them."""
        return Placement(ring=True, block=self.capacity, sinks=self.sinks, window=self.window)

    def committed(self, plan: Plan) -> tuple[RingLayout, Relayout | None]:
        """See `Layout.committed`."""
        assert plan.held is not None
        with lasting():
            held = self.held.clone()
            held[list(plan.span.slots), : plan.span.width] = plan.held
        found = self._with(held)
        if self.capacity <= self.full:
            return found, None
        return found, Relayout(self.full, found._gather(self.full))

    def check_truncate(self, slot: int, length: int, before: int) -> None:
        """See `Layout.check_truncate`."""
        oldest = max(min(self.sinks, length), length - self.window + 1)
        held = self.held[slot]
        found = int(((held >= oldest) & (held < length)).sum())
        sunk = min(self.sinks, length, oldest)
        found_sinks = int(((held >= 0) & (held < sunk)).sum())
        if found < length - oldest or found_sinks < sunk:
            raise CacheError(
                f"the sliding cache cannot go back to {length} tokens: it keeps the last "
                f"{self.window} tokens and {self.slack} more, and older ones are gone; truncate "
                "by less, make it with more slack, or use the dynamic cache, which forgets nothing"
            )

    def truncated(self, cuts: Sequence[tuple[int, int]]) -> RingLayout:
        """See `Layout.truncated`."""
        with lasting():
            held = self.held.clone()
            for slot, length in cuts:
                held[slot][held[slot] >= length] = -1
        return self._with(held)

    def selected(self, indices: Sequence[int], lengths: Sequence[int]) -> RingLayout:
        """See `Layout.selected`."""
        with lasting():
            return self._with(self.held[list(indices)])

    def widened(self, capacity: int) -> Relayout:
        """See `Layout.widened`."""
        return Relayout(capacity, self._gather(capacity))

    def joined(self, other: Layout) -> RingLayout:
        """See `Layout.joined`."""
        assert isinstance(other, RingLayout)
        with lasting():
            return self._with(torch.cat((self.held, other.held)))

    def restore(self, held: Tensor, lengths: Sequence[int]) -> None:
        """Take on the labels (slots, capacity) of a ring that sequences of `lengths` lay in.

        Raises CacheError if they are not labels that such a ring can have.
        """
        for labels, length in zip(held.tolist(), lengths, strict=True):
            tokens = [token for token in labels if token != -1]
            if len(set(tokens)) < len(tokens) or any(not 0 <= t < length for t in tokens):
                raise CacheError(
                    f"a ring of {length} tokens cannot hold {tokens}; make the cache anew"
                )
        with lasting():
            self.held, self.capacity = held.clone(), held.shape[1]
        for slot, length in enumerate(lengths):
            self.check_truncate(slot, length, length)

    def fork(self, lengths: Sequence[int]) -> RingLayout:
        """See `Layout.fork`."""
        with lasting():
            return self._with(self.held.clone())

    def entries_from(self, slot: int, begin: int, end: int) -> slice | list[int]:
        """See `Layout.entries_from`."""
        held = self.held[slot]
        found: list[int] = ((held >= begin) & (held < end)).nonzero().flatten().tolist()
        return found

    def entries(self, slot: int, begin: int, end: int) -> list[int]:
        """See `Layout.entries`; raises CacheError if one of the tokens is gone."""
        held = {token: entry for entry, token in enumerate(self.held[slot].tolist())}
        if any(token not in held for token in range(begin, end)):
            raise CacheError(
                f"the sliding cache no longer holds all of tokens {begin} to {end}: it keeps the "
                f"last {self.window}; use the dynamic cache where every token is needed"
            )
        return [held[token] for token in range(begin, end)]


def _as_range(places: Tensor) -> range | list[int]:
    entries: list[int] = places.tolist()
    if not entries:
        return range(0)
    first, last = entries[0], entries[-1]
    whole = last - first + 1 == len(entries)
    return range(first, last + 1) if whole else entries
