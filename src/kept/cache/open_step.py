"""A step in progress: what has been planned, and which layers have stored so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from kept.cache.cross import CrossStep
from kept.cache.indices import read_whole
from kept.cache.layout import Layout, Plan
from kept.cache.shape import KVShape
from kept.errors import CacheError
from kept.ops import KVView, Span


@dataclass(frozen=True, slots=True)
class LayerStore:
    """Where one layer puts its new keys and values in one step; hands back what to attend.

    held: of a cross layer, what its sequences attend; else None.
    """

    span: Span
    put: Callable[[Tensor, Tensor], KVView]
    held: Callable[[], KVView] | None = None

    def append(self, k: Tensor, v: Tensor) -> KVView:
        """Store k, v (N, G, D), the rows of the step's batch; returns all that may be attended.

        A cross layer takes (M, G, D), the rows of the batch's source.
        """
        return self.put(k, v)

    def view(self) -> KVView:
        """What a cross layer attends in a step without a new input; CacheError elsewhere."""
        if self.held is None:
            raise CacheError("this layer attends the step's own tokens; append() their keys first")
        return self.held()


def cross_store(step: CrossStep, layer: int) -> LayerStore:
    """The store of one cross layer."""
    return LayerStore(step.span, partial(step.put, layer), partial(step.view, layer))


@dataclass(slots=True)
class OpenStep:
    """plans: one per layout. cross: of the cross layers, if there are any. done: the layers that
    have stored. num_new: T of a step that `Cache.update` began and later calls join, else None."""

    plans: dict[Layout, Plan]
    cross: CrossStep | None = None
    num_new: int | None = None
    done: set[int] = field(default_factory=set)

    @property
    def joinable(self) -> bool:
        """Whether the next `update` belongs to this step."""
        return self.num_new is not None and bool(self.done)


def check_slots(slots: Sequence[int], num_slots: int) -> None:
    """Raise CacheError unless a step can store to these slots of a cache of `num_slots`."""
    if any(not 0 <= slot < num_slots for slot in slots) or len(set(slots)) != len(slots):
        raise CacheError(
            f"slots {list(slots)} are not distinct slots of this cache of {num_slots}; make it "
            "with more (num_slots), or select() more"
        )


def check_update(
    k: Tensor,
    v: Tensor,
    layer: int,
    shapes: Sequence[KVShape],
    num_slots: int | None,
) -> None:
    """Raise CacheError unless k, v (B, G, T, D) fit a layer. num_slots: what B has to be, None
    where any will do."""
    for name, x in (("keys", k), ("values", v)):
        if not isinstance(x, Tensor) or x.is_complex():
            given = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise CacheError(f"the {name} are {given}; pass a tensor of real numbers")
    if not 0 <= read_whole(layer, "the layer") < len(shapes):
        raise CacheError(
            f"layer {layer} does not exist; this cache has layers 0 to {len(shapes) - 1}"
        )
    heads, width = shapes[layer].num_kv_heads, shapes[layer].head_dim
    fits = k.ndim == 4 and k.shape == v.shape and k.shape[0] > 0 and k.shape[2] > 0
    fits = fits and num_slots in (None, k.shape[0])
    if not fits or (k.shape[1], k.shape[3]) != (heads, width):
        raise CacheError(
            f"keys {tuple(k.shape)} and values {tuple(v.shape)} do not fit layer {layer}; pass "
            f"(batch, heads, time, head) = ({num_slots or 'B'}, {heads}, T, {width}) for both, "
            "with T of at least 1"
        )


def check_joins(layer: int, num_new: int, done: set[int], layers: range, first: int | None) -> None:
    """Raise CacheError unless `layer` can join the step that some of `layers` have taken part in.

    done: those that have. first: the new tokens that the first of them brought.
    """
    if layer in done:
        missing = sorted(set(layers) - done)
        raise CacheError(
            f"layer {layer} was updated twice in one step while layers {missing} were not; "
            "update every layer once a step, or call abandon() to start the step again"
        )
    if num_new != first:
        raise CacheError(
            f"layer {layer} brings {num_new} new tokens where the step's first layer "
            f"brought {first}; every layer stores the same tokens"
        )
