"""Handing a cache's buffers to kernels, which write new keys and values there by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from kept.cache.block_layout import AHEAD
from kept.cache.layout import Layout, Plan
from kept.cache.state import Holder, Leased, State
from kept.errors import CacheError, CacheFullError
from kept.ops import KVCodec, LentBuffers, StepBuffers, StoredView, plain_torch, table_of


class Lease:
    """The right to add one token a step to each of `slots`, by writing to the buffers.

    stores: of the step before the first of these. room: how many tokens more the buffers take. It
    ends with the next other operation on the cache, as that replaces the state it was granted on.
    """

    def __init__(self, holder: Holder, leased: Leased, stores: StepBuffers, room: int) -> None:
        self.stores, self.room = stores, room
        self._holder, self._state, self._leased = holder, holder.state, leased

    def check(self) -> None:
        """Raise CacheError where it has ended."""
        if self._holder.state is not self._state:
            raise CacheError(
                "another operation on this cache ended the lease that keys are written under; take "
                "a new one with lease(), or give each its own fork()"
            )

    def extend(self) -> None:
        """Count the token that its holder has written to each slot. Raises as `check` does."""
        self.check()
        self._leased.taken += 1

    @plain_torch()
    def end(self) -> None:
        """End it, and zero what its holder may have written since the last `extend`."""
        if self._holder.state is self._state:
            self._holder.state = self._state.settled()


def with_lent(state: State, codec: KVCodec) -> State:
    """A state that knows its buffers as kernels take them. Copies buffers that a fork shares."""
    found = state.owned().evened()
    generation = sum(layer.generation for layer in found.layers)
    if found.lent is None or found.lent.generation != generation:
        found = replace(found, lent=_gathered(found, codec, generation))
    return found


def lend(state: State, plans: dict[Layout, Plan]) -> StepBuffers:
    """What a step of these plans writes to and reads; state: as `with_lent` gives it."""
    assert state.lent is not None

    def view(layer: int) -> StoredView:
        return state.layers[layer].view(plans[state.layouts[layer]].span)

    placements = [layout.placement for layout in plans]
    tables = [table_of(plan.span) for plan in plans.values()]
    lengths = [plan.span.lengths for plan in plans.values()]
    return StepBuffers(state.lent, placements, tables, lengths, view)


def can_lease(state: State, slots: tuple[int, ...]) -> bool:
    """Whether slots may take tokens without a plan: they hold some, and have an input where there
    are cross layers, and no layout chooses which to drop."""
    filled = all(state.lengths[slot] for slot in slots)
    if state.cross.shapes and not all(state.cross.lengths[slot] for slot in slots):
        return False
    return filled and all(x.max_step(0) is None for x in state.distinct)


def grant(holder: Holder, slots: tuple[int, ...], codec: KVCodec, device: torch.device) -> Lease:
    """See `Cache.lease`; no step is open, and each slot has its input, if the cache has any."""
    lengths = [holder.state.lengths[slot] for slot in slots]
    state = with_lent(_with_room(holder.state, slots, lengths), codec)
    before = [length - 1 for length in lengths]
    starts = tuple(range(len(slots) + 1))
    plans = {layout: layout.planned(starts, slots, before, device) for layout in state.distinct}
    room = min(layout.room(slots, lengths) for layout in state.distinct)
    stores = lend(state, plans)
    attended = state.cross.begin(starts, slots, before, None)
    if attended is not None:
        stores = replace(stores, inputs=attended.lend())
    leased = Leased(slots)
    holder.state = replace(state, leased=leased)
    return Lease(holder, leased, stores, room)


def _with_room(state: State, slots: tuple[int, ...], lengths: Sequence[int]) -> State:
    """With room for some tokens more in each of the slots, where every layout has that: what one
    took ahead, another might need for the very next token."""
    for count in (AHEAD, 1):
        try:
            found = [layout.ahead(slots, lengths, count) for layout in state.distinct]
        except CacheFullError:
            continue
        for layout, (_, copies) in zip(state.distinct, found, strict=True):
            layout.copy_blocks(copies)
        after = [layout for layout, _ in found]
        return state.with_layouts(dict(zip(state.distinct, after, strict=True)))
    return state


def _gathered(state: State, codec: KVCodec, generation: int) -> LentBuffers:
    layouts = list(state.distinct)
    order = [layouts.index(layout) for layout in state.layouts]
    buffers = [(layer.keys, layer.values) for layer in state.layers]
    return LentBuffers(codec, buffers, order, generation)
