"""A model's cache: the keys and values of every layer, and how many tokens each slot holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike

import torch
from torch import Tensor

from kept.batch import Batch, Source, pack
from kept.cache.cross import CrossLayers, CrossStep
from kept.cache.indices import read_all_whole, read_lengths, read_whole
from kept.cache.layer import LayerCache
from kept.cache.layout import Layout, Plan, Relayout
from kept.cache.open_step import (
    LayerStore,
    OpenStep,
    check_joins,
    check_slots,
    check_update,
    cross_store,
)
from kept.cache.shape import KVShape
from kept.errors import CacheError, OptionError
from kept.ops import Codec, KVView, LentBuffers, StepBuffers, StoredView


class Cache:
    """Keys and values of several sequences, one slot each, for all layers of a model.

    Made by `make_cache`. A forward pass stores through `step`, a hand-written loop through
    `update`. Lengths advance once a step, after every layer has stored; a step that raises leaves
    the cache as it was, except that a ring can then be truncated by that much less.
    """

    def __init__(
        self,
        shapes: Sequence[KVShape],
        layouts: Sequence[Layout],
        codec: Codec,
        device: torch.device,
        name: str,
        lengths: Sequence[int] | None = None,
    ) -> None:
        """shapes: one per layer, those of cross layers last. layouts: one for each of the others;
        layers that lay tokens out alike pass the same object. lengths: (slots,) tokens that the
        caller is about to put into the layers, by default none."""
        self.name, self.codec, self.device = name, codec, device
        self.shapes = tuple(shapes)
        self._layout_of = list(layouts)
        self._lengths = [0] * layouts[0].num_slots if lengths is None else list(lengths)
        self._layers = [
            LayerCache(shape, layout.num_slots, layout.capacity, codec, device)
            for shape, layout in zip(shapes[: len(layouts)], layouts, strict=True)
        ]
        cross, none = shapes[len(layouts) :], [None] * self.num_slots
        self.cross = CrossLayers(cross, none, codec, device) if cross else None
        self._filling: CrossStep | None = None  # an input that `update` has begun to store
        self._open: OpenStep | None = None
        self._lent: tuple[list[int], LentBuffers] | None = None  # and the versions it was made at

    # What it holds

    @property
    def num_slots(self) -> int:
        """How many sequences it has room for."""
        return len(self._lengths)

    @property
    def num_layers(self) -> int:
        """L, without cross layers."""
        return len(self._layers)

    @property
    def layers(self) -> tuple[LayerCache, ...]:
        """(L,) the buffers of each layer; those of cross layers are in `cross`."""
        return tuple(self._layers)

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """(L,) how each layer lays its tokens out; layers that do so alike share one."""
        return tuple(self._layout_of)

    @property
    def lengths(self) -> tuple[int, ...]:
        """(slots,) how many tokens each slot holds (a ring: how many it has seen)."""
        return tuple(self._lengths)

    @property
    def input_lengths(self) -> tuple[int, ...]:
        """(slots,) tokens of the encoder input that each slot attends; 0: none."""
        return (0,) * self.num_slots if self.cross is None else self.cross.lengths

    @property
    def dtype(self) -> torch.dtype:
        """What keys and values come back in: that of the codec, fp32 for int8 and int4."""
        return self.codec.dtype

    @property
    def num_bytes(self) -> int:
        """Bytes its buffers take, unused capacity included; an encoder input counts once."""
        own = sum(layer.num_bytes for layer in self._layers)
        return own if self.cross is None else own + self.cross.num_bytes

    def __repr__(self) -> str:
        inputs = "" if self.cross is None else f"inputs of {list(self.input_lengths)}, "
        return (
            f"<Cache {self.name}: {self.num_layers} layers, lengths {list(self._lengths)}, "
            f"{inputs}{self.num_bytes:,} bytes of {self.codec.name}>"
        )

    # Storing

    @contextmanager
    def step(self, batch: Batch) -> Iterator[list[LayerStore]]:
        """Open a step: yields a store per layer; the lengths advance when the block ends well.

        Cross layers come last. A sequence whose slot holds no tokens may bring an encoder input
        (the batch's source), which takes the place of the slot's; a slot that has none must.

        Raises CacheFullError or CacheError before anything is stored, and CacheError in the end if
        a cross layer has not stored the input that was brought, or the cache was truncated,
        selected from or stepped by someone else meanwhile.
        """
        with self._opened(batch) as step:
            found = [self._store(i, step) for i in range(self.num_layers)]
            if step.cross is not None:
                cross = range(len(self.shapes) - self.num_layers)
                found += [cross_store(step.cross, layer) for layer in cross]
            yield found

    @contextmanager
    def lend(self, batch: Batch) -> Iterator[StepBuffers]:
        """Open a step like `step`, and hand out the buffers of all layers at once, to which the
        caller then writes the new keys and values."""
        with self._opened(batch) as step:
            for layer in self._layers:
                layer.own()
            step.done.update(range(self.num_layers))
            if self._lent is None or self._lent[0] != [x.version for x in self._layers]:
                self._even_out()
                versions = [layer.version for layer in self._layers]
                layouts = list(step.plans)
                order = [layouts.index(layout) for layout in self._layout_of]
                buffers = [(layer.keys, layer.values) for layer in self._layers]
                self._lent = versions, LentBuffers(self.codec, buffers, order)
            plans = step.plans
            placements = [layout.placement for layout in plans]
            span = next(iter(plans.values())).span

            def view(layer: int) -> StoredView:
                return self._layers[layer].view(plans[self._layout_of[layer]].span)

            yield StepBuffers(self._lent[1], placements, span.lengths, view)

    def _even_out(self) -> None:
        """Bring layers that a growth which failed half-way left larger to their layout's capacity:
        kernels know one capacity."""
        for layer, layout in zip(self._layers, self._layout_of, strict=True):
            if layer.capacity != layout.capacity:
                layer.adopt(layer.relaid(Relayout(layout.capacity)))

    @contextmanager
    def _opened(self, batch: Batch) -> Iterator[OpenStep]:
        step = self._begin(batch)
        try:
            yield step
            if step.cross is not None:
                step.cross.check_done()
            if self._open is not step:
                raise CacheError(
                    "another operation on this cache dropped the step that was being stored; "
                    "finish a step before the next operation, or give each its own fork()"
                )
        except BaseException:
            if self._open is step:
                self.abandon()
            raise
        self._commit(step)

    def update(self, k: Tensor, v: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Append one layer's new keys and values; returns what the new tokens may attend.

        k, v: (B, G, T, D), as transformers lays them out, the same T for every sequence. Returns
        two tensors (B, G, S, D), oldest first, shorter sequences padded with zeros at their end;
        read them before the next operation, they may be views. A cache without tokens takes on B
        slots. Lengths advance once all layers have been updated. A cross layer, L or above, takes
        the keys of a whole encoder input instead, which counts once all cross layers have been
        updated; begin before the first tokens are complete. Raises CacheError when a layer is
        updated twice in one step.
        """
        step = self._open if self._open is not None and self._open.joinable else None
        begun = step is not None or self._filling is not None
        settled = begun or any(self._lengths) or any(self.input_lengths)
        check_update(k, v, layer, self.shapes, self.num_slots if settled else None)
        own, num_new = layer < self.num_layers, k.shape[2]
        if k.shape[0] != self.num_slots:
            for layout in dict.fromkeys(self._layout_of) if own else ():
                layout.reserve([0], [num_new])  # refuses before slots change
            self.select([0] * k.shape[0])
        k, v = (x.transpose(1, 2).flatten(0, 1) for x in (k, v))  # (B * T, G, D)
        if not own:
            return self._update_cross(k, v, layer)
        if step is None:
            step = self._begin(pack([[0] * num_new] * self.num_slots), num_new)
        check_joins(layer, num_new, step.done, range(self.num_layers), step.num_new)
        dense = self._store(layer, step).append(k, v).dense()
        if len(step.done) == self.num_layers:
            self._commit(step)
        return dense

    def _update_cross(self, k: Tensor, v: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        assert self.cross is not None
        cross, count, rows = self.cross, self.num_slots, len(k)
        step = self._filling
        if step is None:
            slots, ends = tuple(range(count)), range(0, rows + 1, rows // count)
            source = Source(torch.zeros(rows, dtype=torch.int64), tuple(ends), slots)
            step = cross.begin((0,) * (count + 1), slots, self._lengths, source)
            self._filling = step
        first, done = self.num_layers, {self.num_layers + i for i in step.stored}
        check_joins(layer, rows // count, done, range(first, len(self.shapes)), step.span.width)
        dense = step.put(layer - first, k, v).dense()
        if len(step.stored) == len(cross.shapes):
            self._filling = None
            step.commit(cross)
        return dense

    def abandon(self) -> None:
        """Drop a step that not every layer has taken part in, and what it stored."""
        self._filling = None
        self._drop_open()

    def _drop_open(self) -> None:
        step, self._open = self._open, None
        if step is not None:
            self._erase(step.done, step.plans)

    def _erase(self, layers: Iterable[int], plans: dict[Layout, Plan]) -> None:
        for i in layers:
            self._layers[i].erase(plans[self._layout_of[i]].writes)

    def _begin(self, batch: Batch, num_new: int | None = None) -> OpenStep:
        """num_new: T of a step that `update` begins, which leaves cross layers to themselves."""
        starts, slots = batch.starts, batch.slots
        check_slots(slots, self.num_slots)
        lengths = [self._lengths[s] for s in slots]
        cross = None
        if self.cross is not None and num_new is None:
            cross = self.cross.begin(starts, slots, lengths, batch.source)
        elif batch.source is not None:
            raise CacheError(
                "this batch brings an encoder input, and the cache has no cross layers to hold it; "
                "make the cache from model.kv_shapes"
            )
        layouts = dict.fromkeys(self._layout_of)
        changes = {layout: layout.reserve(lengths, batch.counts) for layout in layouts}
        self._drop_open()
        if num_new is None:
            self._filling = None
        for layout, change in changes.items():
            if change is not None:
                self._relayout(layout, change)
        plans = {layout: layout.plan(starts, slots, lengths, self.device) for layout in layouts}
        self._open = OpenStep(plans, cross, num_new)
        return self._open

    def _store(self, index: int, step: OpenStep) -> LayerStore:
        layer, plan = self._layers[index], step.plans[self._layout_of[index]]

        def put(k: Tensor, v: Tensor) -> KVView:
            view = layer.append(k, v, plan.writes, plan.span)
            step.done.add(index)
            return view

        return LayerStore(plan.span, put)

    def _commit(self, step: OpenStep) -> None:
        self._open = None
        if step.cross is not None and self.cross is not None:
            step.cross.commit(self.cross)
        span = next(iter(step.plans.values())).span
        changes = {layout: layout.commit(plan) for layout, plan in step.plans.items()}
        for slot, length in zip(span.slots, span.lengths, strict=True):
            self._lengths[slot] = length
        # Last, so that a ring whose shrinking fails is merely wider than it need be.
        for layout, change in changes.items():
            if change is not None:
                self._relayout(layout, change)

    def _relayout(self, layout: Layout, change: Relayout) -> None:
        self._lent = None  # it keeps the old buffers alive
        layers = [x for x, of in zip(self._layers, self._layout_of, strict=True) if of is layout]
        if change.gather is None:
            # Entries stay in place, so a failure half-way leaves nothing but some larger buffers.
            for layer in layers:
                layer.adopt(layer.relaid(change))
        else:
            for layer, buffers in zip(layers, [x.relaid(change) for x in layers], strict=True):
                layer.adopt(buffers)
        layout.apply(change)

    # Moving

    def truncate(self, length: int | Sequence[int]) -> None:
        """Keep at most the first `length` tokens of each slot (one number, or one per slot).

        Encoder inputs stay; a slot of 0 tokens may take a new one. Raises CacheError, changing
        nothing, if a ring has already dropped what it would need.
        """
        lengths = read_lengths(length, self.num_slots)
        if len(lengths) != self.num_slots or any(n < 0 for n in lengths):
            raise OptionError(
                f"truncate takes one length of at least 0, or one for each of {self.num_slots} "
                f"slots, and was given {length}"
            )
        cuts = [(s, n) for s, n in enumerate(lengths) if n < self._lengths[s]]
        layouts = list(dict.fromkeys(self._layout_of))
        for layout in layouts:
            for slot, n in cuts:
                layout.check_truncate(slot, n)
        self.abandon()
        for slot, n in cuts:
            for layer, layout in zip(self._layers, self._layout_of, strict=True):
                layer.clear(slot, layout.entries_from(slot, n, self._lengths[slot]))
            for layout in layouts:
                layout.truncate(slot, n)
            self._lengths[slot] = n

    def reset(self) -> None:
        """Forget every token; buffers stay allocated, and encoder inputs attended."""
        self.truncate(0)

    def select(self, indices: Sequence[int]) -> None:
        """Slot i becomes a copy of what slot indices[i] was; there are len(indices) slots then.

        Raises OptionError for an index that is no slot, or none at all.
        """
        order = read_all_whole(indices, "a slot to select")
        if not order or any(not 0 <= i < self.num_slots for i in order):
            raise OptionError(
                f"cannot select slots {order} of a cache of {self.num_slots}; "
                f"give at least one index from 0 to {self.num_slots - 1}"
            )
        self.abandon()
        if order == list(range(self.num_slots)):
            return
        self._lent = None  # it keeps the old buffers alive
        for layer in self._layers:
            layer.select(order)
        for layout in dict.fromkeys(self._layout_of):
            layout.select(order)
        if self.cross is not None:
            self.cross.select(order)
        self._lengths = [self._lengths[i] for i in order]

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
        if read_whole(count, "the count to repeat") < 1:
            raise OptionError(f"cannot repeat slots {count} times; give 1 or more")
        self.select([slot for slot in range(self.num_slots) for _ in range(count)])

    def fork(self) -> Cache:
        """An independent cache with the same content; buffers are copied on the first write."""
        twin = Cache.__new__(Cache)
        twin.name, twin.codec, twin.shapes = self.name, self.codec, self.shapes
        twin.device = self.device
        twins = {layout: layout.fork() for layout in dict.fromkeys(self._layout_of)}
        twin._layout_of = [twins[layout] for layout in self._layout_of]
        twin._layers = [layer.fork() for layer in self._layers]
        twin._lengths = list(self._lengths)
        twin.cross = None if self.cross is None else self.cross.fork()
        twin._open, twin._filling, twin._lent = None, None, None
        if self._open is not None:
            plans = {twins[layout]: plan for layout, plan in self._open.plans.items()}
            twin._erase(self._open.done, plans)
        return twin

    # Reading

    def layer(self, index: int, begin: int = 0) -> list[tuple[Tensor, Tensor]]:
        """Keys and values (G, S - begin, D) of one layer's tokens from `begin` on, per slot.

        Codes come decoded. Of a cross layer, L or above, the tokens are those of the slot's input.
        Raises CacheError if a ring has dropped one of the tokens.
        """
        if self.cross is not None and index >= self.num_layers:
            return self.cross.read(index - self.num_layers, begin)
        layout, layer = self._layout_of[index], self._layers[index]
        ends = enumerate(self._lengths)
        return [layer.read(slot, layout.entries(slot, begin, end)) for slot, end in ends]

    def save(self, path: str | PathLike[str], *, fingerprint: str = "") -> None:
        """Write what it holds to a file that `load_cache` reads; see `kept.cache.files`."""
        from kept.cache.files import save_cache  # which needs this class

        save_cache(self, path, fingerprint=fingerprint)
