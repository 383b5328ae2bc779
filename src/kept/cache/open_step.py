"""A step in progress: what has been planned, and which layers have stored so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kept.cache.cross_step import CrossStep
from kept.cache.layer import LayerCache
from kept.cache.layout import Layout, Plan, lengths_after
from kept.cache.observer import rows_of
from kept.cache.place import Buffers
from kept.errors import CacheError
from kept.ops import AttentionSpec, KVView, Span


@dataclass(frozen=True, slots=True)
class LayerStore:
    """Where one layer puts its new keys and values in one step; hands back what to attend.

    put: None where the layer shares another's. get: None where its keys are of the step's own
    tokens. see: None where the cache does not look at queries.
    """

    span: Span
    put: Callable[[Tensor, Tensor], KVView] | None
    get: Callable[[], KVView] | None = None
    see: Callable[[Tensor, AttentionSpec], None] | None = None

    def observe(self, q: Tensor, spec: AttentionSpec) -> None:
        """Show the queries (N, H, D) that attend the new keys, for a cache that looks at them.

        Raises CacheError for queries that do not fit the keys.
        """
        if self.see is not None:
            self.see(q, spec)

    def append(self, k: Tensor, v: Tensor) -> KVView:
        """Store k, v (N, G, D), the rows of the step's batch; returns all that may be attended.

        A cross layer takes (M, G, D), the rows of the batch's source. Raises CacheError for a layer
        that shares another's.
        """
        if self.put is None:
            raise CacheError(
                "this layer shares the keys and values of another one and stores none; call read()"
            )
        return self.put(k, v)

    def read(self) -> KVView:
        """All that may be attended of the layer that this one shares, which stored before it; of a
        cross layer the inputs, where the step brings none.

        Raises CacheError where that has not been stored yet, or this layer stores its own.
        """
        if self.get is None:
            raise CacheError("this layer stores keys and values of its own; append() them")
        return self.get()


def own_store(
    step: OpenStep,
    index: int,
    layer: LayerCache,
    plan: Plan,
    visit: Callable[[], None],
    see: Callable[[Tensor, AttentionSpec], None] | None,
) -> LayerStore:
    """The store of a layer that stores the step's tokens. visit: called before it does."""

    def put(k: Tensor, v: Tensor) -> KVView:
        visit()
        step.touched.add(index)
        view = layer.append(k, v, plan.writes, plan.span)
        step.done.add(index)
        return view

    return LayerStore(plan.span, put, see=see)


def shared_store(step: OpenStep, owner: int, layer: LayerCache, plan: Plan) -> LayerStore:
    """The store of a layer that reads what layer `owner` has stored."""

    def get() -> KVView:
        if owner not in step.done:
            raise not_stored(owner)
        return layer.view(plan.span)

    return LayerStore(plan.span, None, get)


def cross_store(
    step: CrossStep, layer: int, visit: Callable[[], None] = lambda: None
) -> LayerStore:
    """The store of one cross layer. visit: called each time before it is written to or read."""

    def put(k: Tensor, v: Tensor) -> KVView:
        visit()
        return step.put(layer, k, v)

    def get() -> KVView:
        visit()
        return step.view(layer)

    return LayerStore(step.span, put, get)


@dataclass(slots=True)
class OpenStep:
    """plans: one per layout. num_layers: that store. starts, slots: of its batch. before: (B,)
    tokens of each sequence without the new ones. cross: of the cross layers, if there are any.
    num_new: T of a step that `Cache.update` began and later calls join, else None. touched: the
    layers that have begun to store, done: those that have. seen: those that were shown their
    queries."""

    plans: dict[Layout, Plan]
    num_layers: int
    starts: tuple[int, ...]
    slots: tuple[int, ...]
    before: Sequence[int]
    cross: CrossStep | None = None
    num_new: int | None = None
    touched: set[int] = field(default_factory=set)
    done: set[int] = field(default_factory=set)
    seen: set[int] = field(default_factory=set)
    _rows: tuple[Tensor, Tensor] | None = None

    @property
    def after(self) -> tuple[int, ...]:
        """(B,) tokens of each sequence with the new ones."""
        return lengths_after(self.starts, self.before)

    def rows(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """(N,) the slot and (N,) the token of each row."""
        if self._rows is None:
            self._rows = rows_of(self.starts, self.slots, self.before, device)
        return self._rows

    @property
    def joinable(self) -> bool:
        """Whether the next `update` belongs to this step."""
        return self.num_new is not None and 0 < len(self.done) < self.num_layers

    def visited(
        self,
        layers: Sequence[Buffers],
        layouts: Sequence[Layout],
        index: int,
        lengths: Sequence[int],
    ) -> tuple[list[Buffers], int, list[list[int]]]:
        """What a place is told where the step comes to a layer, or the cross layer behind it.

        layers, layouts: of a cache, without cross layers. lengths: (slots,) its own.
        """
        found, after = list(layers), list(lengths)
        for slot, length in zip(self.slots, self.after, strict=True):
            after[slot] = length
        if self.cross is not None:
            found = self.cross.beside(found)
        used = {of: (plan.after or of).used(after) for of, plan in self.plans.items()}
        return found, min(index, len(found) - 1), [used[layout] for layout in layouts]


def not_stored(layer: int) -> CacheError:
    """What to raise where a layer is read in a step that it has not stored in yet."""
    return CacheError(
        f"layer {layer} has not stored its keys and values in this step, so no other layer can "
        "read them; layers run in ascending order"
    )


def not_shown(layer: int, score: str) -> CacheError:
    """What to raise where a layer whose tokens leave by attention was not shown its queries."""
    return CacheError(
        f"layer {layer} of this evicting cache was not shown the queries of the step, which its "
        f"score {score!r} looks at: a model shows them, update() does not bring any, and with "
        "step() they go to observe() of the layer's store; or use a score of what is stored alone, "
        "as key-norm"
    )
