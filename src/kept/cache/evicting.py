"""A cache of a fixed budget: what is more leaves by a policy's choice, at fixed places.

Entry j of a slot holds the j-th oldest token that is still there, so that to attention a slot is a
shorter sequence: keys were rotated to their positions when they were stored, and their order is
kept. Tokens leave when a sequence comes to a multiple of `grain` tokens that is more than the
budget, and then all that are too many:

    budget 6, grain 4        tokens read   6  7  8    9 10 11 12    13 ...
                             stored        6  7  8>6  7  8  9 10>6   7 ...

So what is dropped depends on a sequence's own tokens, never on how they were cut into steps: a step
may not pass such a place (`Cache.max_step`), and how many entries a slot has is arithmetic on its
length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kept.cache.block_groups import block_layouts
from kept.cache.contiguous import OrderedLayout, grown
from kept.cache.indices import read_whole
from kept.cache.layout import Layout, Plan, plan_in_order
from kept.cache.policy import EvictionPolicy
from kept.cache.shape import KVShape
from kept.errors import CacheError, OptionError
from kept.ops import KVCodec, Placement

EVICTION_GRAIN = 64  # tokens between two evictions, unless asked otherwise


@dataclass(frozen=True, slots=True)
class EvictionRule:
    """When tokens leave, and how many stay; `policy` says which, its `recent` decided."""

    budget: int
    grain: int
    policy: EvictionPolicy

    def last(self, length: int) -> int:
        """How many tokens a sequence of `length` had when it last dropped some; 0: never."""
        last = length // self.grain * self.grain
        return last if last > self.budget else 0

    @property
    def observes(self) -> bool:
        """Whether the score looks at queries, which are then seen at each multiple of `grain`."""
        return self.policy.scored_by.looks_at != "entries"

    def last_stop(self, length: int) -> int:
        """How many tokens it had when it last dropped some or its queries were last seen."""
        return length // self.grain * self.grain if self.observes else self.last(length)

    def next_stop(self, length: int) -> int:
        """How many tokens it will have when one of these is next due."""
        least = length if self.observes else max(length, self.budget)
        return (least // self.grain + 1) * self.grain

    def num_stored(self, length: int) -> int:
        """How many entries it has."""
        last = self.last(length)
        return self.budget + length - last if last else length


class EvictingLayout(OrderedLayout):
    """Keeps `rule.budget` tokens of each sequence, and those read since the last eviction."""

    def __init__(self, num_slots: int, rule: EvictionRule, capacity: int = 0) -> None:
        super().__init__(num_slots, capacity)
        self.rule = rule

    @property
    def traits(self) -> dict[str, object]:
        """See `Layout.traits`."""
        return {"layout": "evicting", "rule": self.rule}

    @property
    def _does(self) -> str:
        return "looks at queries" if self.rule.observes else "drops tokens"

    def max_step(self, length: int) -> int:
        """See `Layout.max_step`."""
        return self.rule.next_stop(length) - length

    def reserve(self, lengths: Sequence[int], counts: Sequence[int]) -> int | None:
        """See `Layout.reserve`; raises CacheError for a step that passes an eviction."""
        for length, count in zip(lengths, counts, strict=True):
            if count > self.max_step(length):
                raise CacheError(
                    f"this step brings {count} tokens to a sequence of {length}, and the evicting "
                    f"cache {self._does} when it has {self.rule.next_stop(length)}; bring at most "
                    f"{self.max_step(length)}, as Cache.max_step says, and the others after it"
                )
        before = map(self.rule.num_stored, lengths)
        needed = max(a + b for a, b in zip(before, counts, strict=True))
        if needed <= self.capacity:
            return None
        return min(grown(needed), max(self.rule.budget + self.rule.grain, needed))

    def plan(
        self,
        starts: tuple[int, ...],
        slots: tuple[int, ...],
        lengths: Sequence[int],
        device: torch.device,
    ) -> Plan:
        """See `Layout.plan`."""
        before = [self.rule.num_stored(length) for length in lengths]
        return plan_in_order(starts, slots, before, device)

    @property
    def placement(self) -> Placement:
        """See `Layout.placement`."""
        return Placement(self.capacity)

    def check_truncate(self, slot: int, length: int, before: int) -> None:
        """See `Layout.check_truncate`."""
        last = self.rule.last_stop(before)
        if 0 < length < last:
            did = "added up their attention" if self.rule.observes else "dropped some"
            raise CacheError(
                f"the evicting cache cannot go back to {length} tokens: it {did} when the "
                f"sequence had {last}; truncate to {last} or more, or to 0, or use the dynamic "
                "cache, which forgets nothing"
            )

    def entries_from(self, slot: int, begin: int, end: int) -> slice:
        """See `Layout.entries_from`; begin: 0, or no token before the last eviction."""
        moved = self.rule.num_stored(end) - end
        assert begin == 0 or begin + moved >= self.rule.budget or not moved
        return slice(begin + moved if begin else 0, end + moved)

    def entries(self, slot: int, begin: int, end: int) -> list[int]:
        """See `Layout.entries`; raises CacheError if tokens from `begin` on may be gone."""
        last = self.rule.last(end)
        if begin < last:
            raise CacheError(
                f"the evicting cache no longer holds all of tokens {begin} to {end}: it keeps "
                f"{self.rule.budget} of the first {last}; held() says which; use the dynamic "
                "cache where every token is needed"
            )
        moved = self.rule.num_stored(end) - end
        return list(range(begin + moved, end + moved))


def evicting_layouts(
    shapes: Sequence[KVShape],
    num_slots: int,
    budget: int | Sequence[int] | None,
    policy: EvictionPolicy | str | None,
    grain: int | None,
    codec: KVCodec,
    device: torch.device,
) -> list[Layout]:
    """(L,) the layouts of an evicting cache; see `make_cache`."""
    found = EvictionPolicy() if policy is None else policy
    if isinstance(found, str):
        found = EvictionPolicy(found)
    if not isinstance(found, EvictionPolicy):
        raise OptionError(f"policy is {policy!r}; pass an EvictionPolicy, or the name of its score")
    grain = EVICTION_GRAIN if grain is None else read_whole(grain, "grain")
    if grain < 1:
        raise OptionError(f"grain={grain}: tokens leave every so many; give at least 1")
    if all(shape.window is not None for shape in shapes):
        raise OptionError(
            "every layer of this model has a window of its own and forgets what is outside it, so "
            "there is nothing to choose; use kind='sliding'"
        )
    budgets = _budgets(shapes, budget)
    rules = {each: EvictionRule(each, grain, found.within(each)) for each in budgets}
    chosen = {each: EvictingLayout(num_slots, rule) for each, rule in rules.items()}
    windowed = [shape for shape in shapes if shape.window is not None]
    windows = [shape.window for shape in windowed]
    whole, blocks = iter(budgets), iter(block_layouts(windowed, windows, num_slots, codec, device))
    return [chosen[next(whole)] if shape.window is None else next(blocks) for shape in shapes]


def _budgets(shapes: Sequence[KVShape], budget: int | Sequence[int] | None) -> list[int]:
    """Of each layer without a window of its own."""
    count = sum(shape.window is None for shape in shapes)
    if budget is None:
        raise OptionError(
            "an evicting cache needs budget=N, the tokens of each sequence that it keeps, or a "
            f"list of {count}, one for each layer without a window of its own"
        )
    if isinstance(budget, int):
        return [budget] * count
    if len(budget) != count:
        raise OptionError(
            f"budget lists {len(budget)} numbers of tokens, and {count} layers of this model keep "
            "tokens by budget, those that store keys and have no window of their own; give one "
            "number for each, or one for all"
        )
    return list(budget)
