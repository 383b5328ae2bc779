"""A step in progress: what has been planned, and which layers have stored so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from kept.cache.indices import read_whole
from kept.cache.layout import Layout, Plan, lengths_after
from kept.cache.shape import KVShape
from kept.errors import CacheError
from kept.ops import KVView, Span


@dataclass(frozen=True, slots=True)
class LayerStore:
    """Where one layer puts its new keys and values in one step; hands back what to attend.

    put: None where the layer shares another's, get: None where it does not.
    """

    span: Span
    put: Callable[[Tensor, Tensor], KVView] | None
    get: Callable[[], KVView] | None = None

    def append(self, k: Tensor, v: Tensor) -> KVView:
        """Store k, v (N, G, D), the rows of the step's batch; returns all that may be attended.

        Raises CacheError for a layer that shares another's.
        """
        if self.put is None:
            raise CacheError(
                "this layer shares the keys and values of another one and stores none; call read()"
            )
        return self.put(k, v)

    def read(self) -> KVView:
        """All that may be attended of the layer that this one shares, which stored before it.

        Raises CacheError where it has not stored yet, or this layer shares none.
        """
        if self.get is None:
            raise CacheError("this layer stores keys and values of its own; append() them")
        return self.get()


@dataclass(slots=True)
class OpenStep:
    """plans: one per layout. starts, slots: of its batch. before: (B,) tokens of each sequence
    without the new ones. num_new: T of a step that `Cache.update` began and later calls join, else
    None. done: the layers that have stored."""

    plans: dict[Layout, Plan]
    starts: tuple[int, ...]
    slots: tuple[int, ...]
    before: Sequence[int]
    num_new: int | None = None
    done: set[int] = field(default_factory=set)

    @property
    def after(self) -> tuple[int, ...]:
        """(B,) tokens of each sequence with the new ones."""
        return lengths_after(self.starts, self.before)

    @property
    def joinable(self) -> bool:
        """Whether the next `update` belongs to this step."""
        return self.num_new is not None and bool(self.done)


def not_stored(layer: int) -> CacheError:
    """What to raise where a layer is read in a step that it has not stored in yet."""
    return CacheError(
        f"layer {layer} has not stored its keys and values in this step, so no other layer can "
        "read them; layers run in ascending order"
    )


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
    step: OpenStep | None,
) -> None:
    """Raise CacheError unless `layer` can take k, v (B, G, T, D) now.

    num_slots: what B has to be, None where any will do. step: the one to join, if any.
    """
    for name, x in (("keys", k), ("values", v)):
        if not isinstance(x, Tensor) or x.is_complex():
            given = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise CacheError(f"the {name} are {given}; pass a tensor of real numbers")
    if not 0 <= read_whole(layer, "the layer") < len(shapes):
        raise CacheError(
            f"layer {layer} does not exist; this cache has layers 0 to {len(shapes) - 1}"
        )
    if shapes[layer].shares is not None:
        raise CacheError(
            f"layer {layer} shares the keys and values of layer {shapes[layer].shares} and stores "
            "none; update only the layers that store"
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
    if step is None:
        return
    if layer in step.done:
        storing = {i for i, shape in enumerate(shapes) if shape.shares is None}
        missing = sorted(storing - step.done)
        raise CacheError(
            f"layer {layer} was updated twice in one step while layers {missing} were not; "
            "update every layer once a step, or call abandon() to start the step again"
        )
    if k.shape[2] != step.num_new:
        raise CacheError(
            f"layer {layer} brings {k.shape[2]} new tokens where the step's first layer "
            f"brought {step.num_new}; every layer stores the same tokens"
        )
