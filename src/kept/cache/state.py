"""All that a cache holds, in one object, so that one assignment takes it from one to the next.

An exception may come between any two lines: memory runs out, Ctrl-C is pressed. So an operation
builds whatever it needs beside what there is, and replaces the state when nothing can fail any
more:

    build ... build | cache's state = the next one | carry out its writes
    as before       | as after

Buffers that are moved in place (a few slots of many, tokens that are evicted or zeroed) are written
to behind that line. Copies of what goes there have been made before, so that these writes cannot
fail, and each may be done again: where one was interrupted, whoever comes next does all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from kept.cache.cross import CrossLayers
from kept.cache.evicting_layer import EvictingLayer, Eviction
from kept.cache.layer import LayerCache, Reordering, Write
from kept.cache.layout import Layout
from kept.cache.open_step import OpenStep
from kept.cache.shape import KVShape
from kept.ops import LentBuffers


@dataclass(slots=True, eq=False)
class Leased:
    """Slots whose next entry may be written to without a step, and how many tokens each has taken
    that way."""

    slots: tuple[int, ...]
    taken: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """shapes: of all layers. layers, layouts: (L,) one per storing layer; layers that lay tokens
    out alike have the same layout. counted: (slots,) tokens, but for those that leased slots have
    taken. cross: which encoder inputs the slots attend.

    open: the step that is being stored, whose layers nobody shares. leased: the one thing here that
    changes, as a state made anew for each token decoded would cost more than all else. writes: what
    is left to be written to the layers. lent: their buffers as kernels take them, once that has
    been asked for.
    """

    shapes: tuple[KVShape, ...]
    layers: tuple[LayerCache, ...]
    layouts: tuple[Layout, ...]
    counted: tuple[int, ...]
    cross: CrossLayers
    open: OpenStep | None = None
    leased: Leased | None = None
    writes: tuple[Write, ...] = ()
    lent: LentBuffers | None = None

    @property
    def distinct(self) -> tuple[Layout, ...]:
        """The layouts, each once."""
        return tuple(dict.fromkeys(self.layouts))

    @property
    def lengths(self) -> tuple[int, ...]:
        """(slots,) tokens."""
        if self.leased is None or not self.leased.taken:
            return self.counted
        found = list(self.counted)
        for slot in self.leased.slots:
            found[slot] += self.leased.taken
        return tuple(found)

    def with_layers(self, layers: Sequence[LayerCache]) -> State:
        """With these layers in place of its own; itself where they are the same."""
        if all(a is b for a, b in zip(layers, self.layers, strict=True)):
            return self
        return replace(self, layers=tuple(layers), lent=None)

    def with_layouts(self, after: Mapping[Layout, Layout]) -> State:
        """With some layouts replaced."""
        return replace(self, layouts=tuple(after.get(x, x) for x in self.layouts))

    def owned(self) -> State:
        """With layers that may be written to."""
        return self.with_layers([layer.owned() for layer in self.layers])

    def evened(self) -> State:
        """Without the spare room of layers that a growth which failed half-way left larger than
        their layout: kernels know one capacity."""
        pairs = zip(self.layers, self.layouts, strict=True)
        return self.with_layers(
            [x if x.capacity == y.capacity else x.relaid(y.capacity) for x, y in pairs]
        )

    def truncated(self, cuts: Sequence[tuple[int, int]]) -> State:
        """With the first tokens of some slots alone. cuts: slots, and how many stay there.

        What is cut off is zeroed, where attention multiplies it by zero: it may be NaN.
        """
        found = self.owned()
        writes = tuple(
            partial(layer.clear, slot, layout.entries_from(slot, n, self.lengths[slot]))
            for layer, layout in zip(found.layers, found.layouts, strict=True)
            for slot, n in cuts
            if layer.zeroes
        )
        lengths = list(self.lengths)
        for slot, n in cuts:
            lengths[slot] = n
        found = found.with_layouts({x: x.truncated(cuts) for x in self.distinct})
        return replace(found, counted=tuple(lengths), writes=writes)

    def selected(self, order: Sequence[int]) -> State:
        """Slot i a copy of what slot order[i] is."""
        in_place = len(order) == len(self.lengths)
        stay = [x for x in self.layers if in_place and x.zeroes and not x.is_shared]
        layers = [x.reordered(order) if x in stay else x.selected(order) for x in self.layers]
        found = self.with_layers(layers)
        return replace(
            found.with_layouts({x: x.selected(order, self.lengths) for x in self.distinct}),
            counted=tuple(self.counted[i] for i in order),
            cross=self.cross.selected(order),
            writes=(Reordering(stay, order),) if stay else (),
        )

    def committed(self, step: OpenStep, chosen: Sequence[tuple[EvictingLayer, Eviction]]) -> State:
        """With the tokens of the open step, and without those that leave. chosen: what stays."""
        lengths = list(self.lengths)
        for slot, length in zip(step.slots, step.after, strict=True):
            lengths[slot] = length
        return replace(
            self.with_layouts({layout: layout.committed(of) for layout, of in step.plans.items()}),
            counted=tuple(lengths),
            cross=self.cross.committed(step.cross),
            open=None,
            writes=tuple(partial(layer.evict, eviction) for layer, eviction in chosen),
        )

    def without_passed(self, slots: Sequence[int]) -> State:
        """Without the blocks of some slots that no later token sees."""
        lengths = [self.lengths[slot] for slot in slots]
        after = {x: x.let_go(slots, lengths) for x in self.distinct}
        return self if all(a is b for a, b in after.items()) else self.with_layouts(after)

    def forked(self) -> State:
        """An independent one with the same content. Of an open step, which goes on writing to the
        layers that it began with, the buffers are copied; else on the first write."""
        layouts, step = {x: x.fork(self.lengths) for x in self.distinct}, self.open
        if step is not None:
            step = replace(step, plans={layouts[x]: plan for x, plan in step.plans.items()})
        layers = [x.fork() if step is None else x.cloned() for x in self.layers]
        return State(
            self.shapes,
            tuple(layers),
            tuple(layouts[x] for x in self.layouts),
            self.lengths,
            self.cross.fork(),
            step,
        )

    def settled(self) -> State:
        """Without a step or a lease, once what these have stored is zeroed; mutates the buffers."""
        if self.open is None and self.leased is None:
            return self
        if self.open is not None:
            for index in sorted(self.open.touched):
                plan = self.open.plans[self.layouts[index]]
                self.layers[index].erase(plan.writes)
        lengths = self.lengths
        leased = () if self.leased is None else self.leased.slots
        for layer in self.layers:
            for slot in leased if layer.zeroes else ():
                layer.clear(slot, slice(lengths[slot], lengths[slot] + 1))
        return replace(self, counted=lengths, open=None, leased=None)


@dataclass(slots=True)
class Holder:
    """Where a cache's state lies."""

    state: State
