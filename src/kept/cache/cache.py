"""A model's cache: the keys and values of every layer, and how many tokens each slot holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from os import PathLike

from torch import Tensor

from kept.batch import Batch, Source
from kept.cache.checks import check_joins, check_slots, check_update
from kept.cache.concatenate import concatenate
from kept.cache.evicting_layer import check_seen, choose_all, observer_of
from kept.cache.indices import read_slots, read_whole
from kept.cache.layout import Layout
from kept.cache.lending import Lease, can_lease, grant, lend, with_lent
from kept.cache.open_step import LayerStore, OpenStep, cross_store, own_store, shared_store
from kept.cache.saving import save_cache
from kept.cache.sharing import Sharing
from kept.errors import CacheError
from kept.ops import AttentionSpec, CrossView, StepBuffers, StoredView, plain_torch


class Cache(Sharing):
    """Keys and values of several sequences, one slot each, for all layers of a model.

    Made by `make_cache`. A forward pass stores through `step`, a hand-written loop through
    `update`. Lengths advance once a step, after every layer has stored; a step that raises leaves
    the cache as it was.
    """

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
            if step.cross is not None:
                stores = replace(stores, inputs=step.cross.lend())
            step.touched.update(range(step.num_layers))
            step.done.update(step.touched)
            yield stores

    def lease(self, slots: tuple[int, ...]) -> Lease | None:
        """The right to add a token to each of the slots, step after step, at no more cost than
        `Lease.extend`; None where that cannot be: a layout drops tokens by choice, nothing is
        stored yet, or buffers are not in memory.

        Drops a step that is open. Raises CacheError for slots that are not this cache's, and
        OptionError for none.
        """
        slots = read_slots(slots, "the slots to lease")
        check_slots(slots, self.num_slots)
        if not can_lease(self._state, slots) or self.place.budget is not None:
            return None
        self.abandon()
        if self.lets_go:
            self._state = self._state.without_passed(slots)
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
                layout.check_room(k.shape[0], num_new)  # refuses before slots change
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
        capacities = {layout: layout.reserve(lengths, counts) for layout in self._state.distinct}
        self._settle()
        if num_new is None:
            self.cross.abandon()
        for layout, capacity in capacities.items():
            if capacity is not None:
                self._widen(layout, capacity)
        state = self._state.owned()
        plans = {x: x.plan(starts, slots, lengths, self.device) for x in state.distinct}
        for layout, plan in plans.items():
            layout.copy_blocks(plan.copies)
        step = OpenStep(plans, len(state.layers), starts, slots, lengths, cross, num_new)
        self._state = replace(state, open=step)
        return step

    def _widen(self, layout: Layout, capacity: int) -> None:
        """Make room for a step."""
        # Entries stay in place, so layers can grow one after the other: memory does not hold all of
        # them twice, and a failure half-way leaves nothing but some larger buffers.
        for i, of in enumerate(self.layouts):
            layers = list(self.layers)
            if of is layout and (layers[i].capacity != capacity or layers[i].is_shared):
                layers[i] = layers[i].relaid(capacity)
                self._state = self._state.with_layers(layers)
                self.place.leave(layers[i].buffers)
            del layers  # which would hold what was replaced
        self._state = self._state.with_layouts({layout: layout.relaid(capacity)})

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
            self.place.visit(*step.visited(layers, self.layouts, index, self.lengths))

    @plain_torch()
    def _commit(self, step: OpenStep) -> None:
        state = self._state
        try:
            check_seen(state.layers, step.seen)
            chosen = choose_all(state.layers, step.slots, step.before, step.after)
        except BaseException:  # a score may be anybody's
            self.abandon()
            raise
        state = state.committed(step, chosen)
        self._state = state.without_passed(step.slots) if self.lets_go else state
        self._finish()

    def concatenate(self, others: Sequence[Cache]) -> Cache:
        """A new cache with its slots and those of the others after them; see
        `kept.cache.concatenate`."""
        return concatenate([self, *others] if isinstance(others, Sequence) else others)

    def save(self, path: str | PathLike[str], *, fingerprint: str = "") -> None:
        """Write what it holds to a file that `load_cache` reads; see `kept.cache.saving`."""
        save_cache(self, path, fingerprint=fingerprint)
