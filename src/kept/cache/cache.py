"""A model's cache: the keys and values of every layer, and how many tokens each slot holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from os import PathLike

import torch
from torch import Tensor

from kept.batch import Batch, Source
from kept.cache.checks import check_joins, check_slots, check_update
from kept.cache.cross import CrossLayers
from kept.cache.evicting_layer import check_seen, choose_all, make_layer, observer_of, tokens_of
from kept.cache.indices import read_lengths, read_selected, read_slots, read_whole
from kept.cache.layer import LayerCache
from kept.cache.layout import Layout, Relayout
from kept.cache.lending import Lease, can_lease, grant, lend, with_lent
from kept.cache.open_step import LayerStore, OpenStep, cross_store, own_store, shared_store
from kept.cache.place import InMemory, Place
from kept.cache.shape import KVShape
from kept.cache.slots import Slots
from kept.cache.state import Holder, State
from kept.errors import CacheError, OptionError
from kept.ops import AttentionSpec, CrossView, KVCodec, StepBuffers, StoredView, plain_torch


class Cache(Slots):
    """Keys and values of several sequences, one slot each, for all layers of a model.

    Made by `make_cache`. A forward pass stores through `step`, a hand-written loop through
    `update`. Lengths advance once a step, after every layer has stored; a step that raises leaves
    the cache as it was, except that a ring can then be truncated by that much less.
    """

    def __init__(
        self,
        shapes: Sequence[KVShape],
        layouts: Sequence[Layout],
        codec: KVCodec,
        device: torch.device,
        name: str,
        lengths: Sequence[int] | None = None,
        unquantized_sinks: int = 0,
        place: Place | None = None,
    ) -> None:
        """layouts: one per storing layer but for cross layers, which need none; layers that lay
        tokens out alike pass the same object. lengths: (slots,) tokens that the caller is about to
        put into the layers, by default none. unquantized_sinks: first tokens of each that layers
        hold beside their codes. place: of the buffers, by default the device's memory."""
        self.name, self.codec, self.device = name, codec, device
        self.shapes, self.unquantized_sinks = tuple(shapes), unquantized_sinks
        self.place = place or InMemory(device)
        stored = [shape for shape in shapes if shape.shares is None and not shape.cross]
        lengths = (0,) * layouts[0].num_slots if lengths is None else tuple(lengths)
        layers = [
            make_layer(shape, layout, codec, self.place, unquantized_sinks)
            for shape, layout in zip(stored, layouts, strict=True)
        ]
        crossing = [shape for shape in shapes if shape.cross]  # behind all others
        none, first = [None] * len(lengths), len(shapes) - len(crossing)
        cross = CrossLayers(crossing, first, none, codec, self.place, device)
        self._holder = Holder(State(tuple(layers), tuple(layouts), lengths, cross))

    @property
    def _state(self) -> State:
        """What it holds, with nothing left to be written."""
        if self._holder.state.writes:
            self._finish()
        return self._holder.state

    @_state.setter
    def _state(self, state: State) -> None:
        self._holder.state = state

    def _finish(self) -> None:
        state = self._holder.state
        for write in state.writes:
            write()
        self._holder.state = replace(state, writes=())

    # What it holds

    @property
    def num_slots(self) -> int:
        """How many sequences it has room for."""
        return len(self._state.lengths)

    @property
    def num_layers(self) -> int:
        """L, layers that share another's keys and values included, cross layers not."""
        return self.cross.first

    @property
    def layers(self) -> tuple[LayerCache, ...]:
        """The buffers of each layer that stores; those of cross layers are in `cross`."""
        return self._state.layers

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """How each layer that stores lays its tokens out; layers that do so alike share one."""
        return self._state.layouts

    @property
    def cross(self) -> CrossLayers:
        """Which encoder input each slot attends, and the buffers of all of them."""
        return self._state.cross

    @property
    def lengths(self) -> tuple[int, ...]:
        """(slots,) how many tokens each slot holds (a ring: how many it has seen)."""
        return self._state.lengths

    @property
    def input_lengths(self) -> tuple[int, ...]:
        """(slots,) tokens of the encoder input that each slot attends; 0: none."""
        return self.cross.lengths

    @property
    def max_length(self) -> int | None:
        """How many tokens a slot can have at most; None: any number."""
        return min((x.limit for x in self.layouts if x.limit is not None), default=None)

    @property
    def dtype(self) -> torch.dtype:
        """What keys and values come back in: that of their codecs, fp32 for int8 and int4."""
        return self.codec.dtype

    @property
    def num_bytes(self) -> int:
        """Bytes it takes: buffers, unused capacity included, and what says which tokens they hold.

        Exact; an encoder input counts once, and of what forks share, each counts the whole.
        """
        layers = sum(layer.num_bytes for layer in self.layers)
        layouts = sum(layout.num_bytes for layout in self._state.distinct)
        return layers + layouts + self.cross.num_bytes

    def max_step(self, slot: int) -> int | None:
        """How many tokens the slot may take in one step; None: any number.

        Raises CacheError for no slot of this cache, OptionError for what is no number.
        """
        slot = read_whole(slot, "a slot")
        check_slots((slot,), self.num_slots)
        length = self.lengths[slot]
        found = [layout.max_step(length) for layout in self._state.distinct]
        return min((most for most in found if most is not None), default=None)

    def __repr__(self) -> str:
        inputs = f"inputs of {list(self.input_lengths)}, " if self.cross.shapes else ""
        return (
            f"<Cache {self.name}: {self.num_layers} layers, lengths {list(self.lengths)}, "
            f"{inputs}{self.num_bytes:,} bytes of {self.codec.name}>"
        )

    # Storing

    @contextmanager
    def step(self, batch: Batch) -> Iterator[list[LayerStore]]:
        """Open a step: yields a store per layer; the lengths advance when the block ends well.

        A sequence whose slot holds no tokens may bring an encoder input (the batch's source), which
        takes the place of the slot's; a slot that has none must.

        Raises CacheFullError or CacheError before anything is stored, and CacheError in the end if
        a cross layer has not stored the input that was brought, or the cache was truncated,
        selected from or stepped by someone else meanwhile.
        """
        with self._opened(batch) as step:
            yield [self._store(i, step) for i in range(len(self.shapes))]

    @contextmanager
    def lend(self, batch: Batch) -> Iterator[StepBuffers]:
        """Open a step like `step`, and hand out the buffers of all layers at once, to which the
        caller then writes the new keys and values."""
        with self._opened(batch) as step:
            self._state = with_lent(self._state, self.codec)
            stores = lend(self._state, step.plans)
            if self.place.budget is not None:
                stores = replace(stores, visit=self._visit)
            if any(map(observer_of, self.layers)):
                stores = replace(stores, observe=partial(self._see, step))
            step.touched.update(range(step.num_layers))
            step.done.update(step.touched)
            yield stores

    def lease(self, slots: tuple[int, ...]) -> Lease | None:
        """The right to add a token to each of the slots, step after step, at no more cost than
        `Lease.extend`; None where that cannot be: a layout labels its entries, as a ring does, or
        drops some, nothing is stored yet, buffers are not in memory, or an input is attended too.

        Drops a step that is open. Raises CacheError for slots that are not this cache's, and
        OptionError for none.
        """
        slots = read_slots(slots, "the slots to lease")
        check_slots(slots, self.num_slots)
        if not can_lease(self._state, slots) or self.cross.shapes or self.place.budget is not None:
            return None
        self.abandon()
        return grant(self._holder, slots, self.codec, self.device)

    @contextmanager
    def _opened(self, batch: Batch) -> Iterator[OpenStep]:
        step = self._begin(batch.starts, batch.slots, batch.source)
        try:
            yield step
            if step.cross is not None:
                step.cross.check_done()
            if self._state.open is not step:
                raise CacheError(
                    "another operation on this cache dropped the step that was being stored; "
                    "finish a step before the next operation, or give each its own fork()"
                )
        except BaseException:
            if self._state.open is step:
                self.abandon()
            raise
        self._commit(step)

    @plain_torch()
    def update(self, k: Tensor, v: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Append one layer's new keys and values; returns what the new tokens may attend.

        k, v: (B, G, T, D), as transformers lays them out, the same T for every sequence. Returns
        two tensors (B, G, S, D), oldest first, shorter sequences padded with zeros at their end;
        read them before the next operation, they may be views. A cache without tokens takes on B
        slots. Lengths advance once all layers have been updated. A cross layer takes the keys of a
        whole encoder input instead, which counts once all cross layers have been updated; begin
        before the first tokens are complete. Raises CacheError when a layer is updated twice in one
        step.
        """
        return self.put(k, v, layer).dense()

    @plain_torch()
    def put(self, k: Tensor, v: Tensor, layer: int) -> StoredView | CrossView:
        """`update` that hands out the view of what is stored, for an operation that attends it."""
        step = self._state.open
        if step is not None and not step.joinable:
            step = None
        begun = step is not None or self.cross.is_filling
        layer = read_whole(layer, "the layer")
        settled = begun or any(self.lengths) or any(self.input_lengths)
        check_update(k, v, layer, self.shapes, self.num_slots if settled else None)
        own, num_new = not self.shapes[layer].cross, k.shape[2]
        if k.shape[0] != self.num_slots:
            for layout in self._state.distinct if own else ():
                layout.reserve([0], [num_new])  # refuses before slots change
            self.select([0] * k.shape[0])
        k, v = (x.transpose(1, 2).flatten(0, 1) for x in (k, v))  # (B * T, G, D)
        if not own:
            return self.cross.put(k, v, layer, self.lengths)
        check_seen(self.layers, ())  # nobody shows them here
        if step is None:
            starts = tuple(i * num_new for i in range(self.num_slots + 1))
            step = self._begin(starts, tuple(range(self.num_slots)), num_new=num_new)
            self._state = self._state.evened()
        check_joins(layer, num_new, step.done, range(step.num_layers), step.num_new)
        self._visit(layer)
        plan = step.plans[self.layouts[layer]]
        step.touched.add(layer)
        view = self.layers[layer].append(k, v, plan.writes, plan.span)
        step.done.add(layer)
        if len(step.done) == step.num_layers:
            self._commit(step)
        return view

    def abandon(self) -> None:
        """Drop a step that not every layer has taken part in, and what it stored."""
        self.cross.abandon()
        self._settle()

    @plain_torch()
    def _settle(self) -> None:
        """Drop what is being stored in its own layers; ends a lease."""
        self._state = self._state.settled()

    @plain_torch()
    def _begin(
        self,
        starts: tuple[int, ...],
        slots: tuple[int, ...],
        source: Source | None = None,
        num_new: int | None = None,
    ) -> OpenStep:
        """num_new: T of a step that `put` begins, which leaves cross layers to themselves."""
        check_slots(slots, self.num_slots)
        lengths = [self.lengths[s] for s in slots]
        cross = None
        if num_new is None:
            cross = self.cross.begin(starts, slots, lengths, source)
        counts = [b - a for a, b in pairwise(starts)]
        changes = {layout: layout.reserve(lengths, counts) for layout in self._state.distinct}
        self._settle()
        if num_new is None:
            self.cross.abandon()
        for layout, change in changes.items():
            if change is not None:
                self._widen(layout, change)
        state = self._state.owned()
        plans = {x: x.plan(starts, slots, lengths, self.device) for x in state.distinct}
        step = OpenStep(plans, len(state.layers), starts, slots, lengths, cross, num_new)
        self._state = replace(state, open=step)
        return step

    def _widen(self, layout: Layout, change: Relayout) -> None:
        """Make room for a step."""
        if change.gather is None:
            # Entries stay in place, so layers can grow one after the other: memory does not hold
            # all of them twice, and a failure half-way leaves nothing but some larger buffers.
            for i, of in enumerate(self.layouts):
                layers = list(self.layers)
                if of is layout and (layers[i].capacity != change.capacity or layers[i].is_shared):
                    layers[i] = layers[i].relaid(change)
                    self._state = self._state.with_layers(layers)
                    self.place.leave(layers[i].buffers)
                del layers  # which would hold what was replaced
            self._state = self._state.with_layouts({layout: layout.relaid(change)})
            return
        self._state = self._state.relaid(layout, change)
        self._leave(layout)

    def _leave(self, of: Layout | None = None) -> None:
        """Tell the place that the buffers of one layout's layers, or of all, are not needed."""
        for layer, layout in zip(self.layers, self.layouts, strict=True):
            if of is None or layout is of:
                self.place.leave(layer.buffers)

    def _held_by(self, index: int) -> tuple[Layout, LayerCache]:
        """What holds the keys that layer `index` attends, its own or those of another."""
        shares = self.shapes[index].shares
        owner = index if shares is None else shares
        return self.layouts[owner], self.layers[owner]

    def _store(self, index: int, step: OpenStep) -> LayerStore:
        visit = partial(self._visit, index)
        if self.shapes[index].cross:
            assert step.cross is not None
            return cross_store(step.cross, index - self.cross.first, visit)
        layout, layer = self._held_by(index)
        plan, owner = step.plans[layout], self.shapes[index].shares
        if owner is not None:
            return shared_store(step, owner, layer, plan)
        see = None if observer_of(layer) is None else partial(self._see, step, index)
        return own_store(step, index, layer, plan, visit, see)

    def _see(self, step: OpenStep, index: int, q: Tensor, spec: AttentionSpec) -> None:
        """Show a layer the queries of a step, if it looks at them."""
        observer = observer_of(self.layers[index])
        if observer is not None:
            observer.see(q, *step.rows(self.device), spec)
            step.seen.add(index)

    def _visit(self, index: int) -> None:
        """Tell the place that a step comes to a layer."""
        step = self._state.open
        if self.place.budget is not None and step is not None and self.shapes[index].shares is None:
            layers = [layer.buffers for layer in self.layers]
            if self.shapes[index].cross:
                index -= self.cross.first
            self.place.visit(*step.visited(layers, index, self.lengths))

    @plain_torch()
    def _commit(self, step: OpenStep) -> None:
        state = self._state
        try:
            check_seen(state.layers, step.seen)
            chosen = choose_all(state.layers, step.slots, step.before, step.after)
        except BaseException:  # a score may be anybody's
            self.abandon()
            raise
        self._state = state.committed(step, chosen)
        self._finish()

    # Moving

    @plain_torch()
    def truncate(self, length: int | Sequence[int]) -> None:
        """Keep at most the first `length` tokens of each slot (one number, or one per slot).

        Encoder inputs stay; a slot of 0 tokens may take a new one. Raises CacheError, changing
        nothing, if the cache has already dropped what it would need.
        """
        lengths = read_lengths(length, self.num_slots)
        before = self.lengths
        cuts = [(slot, n) for slot, n in enumerate(lengths) if n < before[slot]]
        for layout in self._state.distinct:
            for slot, n in cuts:
                layout.check_truncate(slot, n, before[slot])
        self.abandon()
        if cuts:
            self._state = self._state.truncated(cuts)
            self._finish()

    @plain_torch()
    def select(self, indices: Sequence[int]) -> None:
        """Slot i becomes a copy of what slot indices[i] was; there are len(indices) slots then.

        Raises OptionError for an index that is no slot, or none at all.
        """
        order = read_selected(indices, self.num_slots)
        self.abandon()
        if order == list(range(self.num_slots)):
            return
        self._state = self._state.selected(order)
        self._finish()
        self._leave()

    @plain_torch()
    def reshape(self, layer: int, shape: KVShape) -> None:
        """Give a layer another number of heads or sizes of them before it stores anything.

        For a model whose layers say what they store only with their first keys. Raises CacheError
        once there are tokens, or for another kind of layer.
        """
        self._check_index(layer)
        old, state = self.shapes[layer], self._state
        shared = any(of.shares == layer for of in self.shapes) or old.shares is not None
        same = (shape.window, shape.shares, shape.cross) == (old.window, old.shares, old.cross)
        if old.cross:
            held = any(self.input_lengths) or self.cross.is_filling
        else:
            held = any(state.lengths) or (state.open is not None and layer in state.open.touched)
        if shared or held or not same:
            raise CacheError(
                f"layer {layer} stores {old} and cannot come to store {shape}: a layer takes other "
                "heads only while nothing is stored or shared; make the cache anew"
            )
        if old.cross:
            state = replace(state, cross=state.cross.reshaped(layer, shape))
        else:
            layout, layers = state.layouts[layer], list(state.layers)
            layers[layer] = make_layer(
                shape, layout, self.codec, self.place, self.unquantized_sinks
            )
            state = state.with_layers(layers)
        self._state = state
        self.shapes = (*self.shapes[:layer], shape, *self.shapes[layer + 1 :])

    @plain_torch()
    def fork(self) -> Cache:
        """An independent cache with the same content; buffers are copied on the first write."""
        if self._state.open is None:
            self._settle()  # ends a lease
        twin = Cache.__new__(Cache)
        twin.__dict__.update(self.__dict__)
        twin._holder = Holder(self._state.forked().settled())
        return twin

    def __copy__(self) -> Cache:
        return self.fork()

    def __deepcopy__(self, memo: object) -> Cache:
        return self.fork()

    def __reduce__(self) -> tuple[object, ...]:
        from kept.cache.pickling import read, written  # which need this class

        return read, (written(self), self.shapes, str(self.device))

    def concatenate(self, others: Sequence[Cache]) -> Cache:
        """A new cache with its slots and those of the others after them; see
        `kept.cache.concatenate`."""
        from kept.cache.concatenate import concatenate  # which needs this class

        return concatenate([self, *others] if isinstance(others, Sequence) else others)

    # Reading

    @plain_torch()
    def layer(self, index: int, begin: int = 0) -> list[tuple[Tensor, Tensor]]:
        """Keys and values (G, S - begin, D) that one layer attends, of the tokens from
        `begin` on, per slot.

        Codes come decoded. Of a cross layer the tokens are those of the slot's input. Raises
        CacheError if a ring has dropped one of the tokens.
        """
        self._check_index(index)
        if read_whole(begin, "begin") < 0:
            raise OptionError(f"begin={begin} is before the first token; give 0 or more")
        if self.shapes[index].cross:
            return self.cross.read(index, begin)
        layout, layer = self._held_by(index)
        ends = enumerate(self.lengths)
        return [layer.read(slot, layout.entries(slot, begin, end), begin) for slot, end in ends]

    @plain_torch()
    def held(self, index: int) -> list[Tensor]:
        """Which tokens one layer holds of each slot, (G, S) int64 each, oldest first.

        Heads differ only in an evicting cache. A ring's are those that it has not overwritten, a
        cross layer's all those of the input.
        """
        self._check_index(index)
        if self.shapes[index].cross:
            return self.cross.tokens(index)
        layout, layer = self._held_by(index)
        return [tokens_of(layout, layer, slot, length) for slot, length in enumerate(self.lengths)]

    def _check_index(self, index: int) -> None:
        if not 0 <= read_whole(index, "a layer") < len(self.shapes):
            raise OptionError(f"layer {index} is none of the {len(self.shapes)} of this cache")

    def save(self, path: str | PathLike[str], *, fingerprint: str = "") -> None:
        """Write what it holds to a file that `load_cache` reads; see `kept.cache.files`."""
        from kept.cache.files import save_cache  # which needs this class

        save_cache(self, path, fingerprint=fingerprint)
