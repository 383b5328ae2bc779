"""Where a step of a program finds and leaves its keys and values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from kept.errors import OptionError
from kept.ops.kv_codec import KVCodec
from kept.ops.packed import address
from kept.ops.spec import AttentionSpec
from kept.ops.views import StoredView


@dataclass(frozen=True, slots=True)
class Placement:
    """How a layout lays its tokens out. ring: whether tokens after the sinks wrap around the
    capacity; window: what the layout itself forgets, None: nothing."""

    ring: bool
    capacity: int
    sinks: int = 0
    window: int | None = None


Room = tuple[int, int, int, int]


def room_of(*parts: Tensor) -> Room:
    """How many slots, heads, entries from one head to the next, and entries of each the buffers of
    a layer (slots, G, capacity, width) have, for kernels to stay within. Raises OptionError where
    they differ."""
    found = {(x.shape[0], x.shape[1], x.stride(1) // x.stride(2), x.shape[2]) for x in parts}
    if len(found) != 1:
        raise OptionError(
            f"the buffers of a layer are of {sorted(found)} slots, heads, capacity and entries; "
            "keys, values and their scales need to be alike"
        )
    return found.pop()


class LentBuffers:
    """The buffers of a cache's layers, as their addresses; good while these stay the same.

    addresses: for each layer keys, their scales and first tokens, and the same of values; 0: there
    are none. layouts: (L,) which of the cache's layouts each layer follows. num_sinks: first tokens
    of each sequence that are held beside their codes. rooms: (L,) as `room_of` finds them.
    """

    def __init__(
        self,
        codec: KVCodec,
        buffers: Sequence[tuple[Sequence[Tensor], Sequence[Tensor]]],
        layouts: Sequence[int],
        sinks: Sequence[tuple[Tensor | None, Tensor | None]] | None = None,
    ) -> None:
        """buffers: (L,) of keys and values, each as their codec's `parts` orders them. sinks: (L,)
        of keys and values, bf16 (slots, G, n, D); None: there are none."""
        self.codec, self.layouts = codec, list(layouts)
        self.rooms = [room_of(*keys, *values) for keys, values in buffers]
        apart = [(None, None)] * len(buffers) if sinks is None else sinks
        self._alive = buffers, apart
        self.num_sinks = max(
            (x.shape[2] for both in apart for x in both if x is not None), default=0
        )
        self.addresses = [
            address(place)
            for layer, both in zip(buffers, apart, strict=True)
            for parts, firsts in zip(layer, both, strict=True)
            for place in (parts[0], parts[1] if len(parts) > 1 else None, firsts)
        ]


@dataclass(frozen=True, slots=True)
class StepBuffers:
    """Where a step's keys and values go.

    placements: one per layout, as they are in this step. lengths: for each of them (B,) of the
    sequences, the new tokens included. view: of a layer, what it holds once the new keys are
    written. visit: to be called before each layer, where its buffers are not all in memory.
    observe: to be called with each layer that stores and its queries (N, H, D), as
    `LayerStore.observe`, where the cache looks at them.
    """

    buffers: LentBuffers
    placements: Sequence[Placement]
    lengths: Sequence[Sequence[int]]
    view: Callable[[int], StoredView]
    visit: Callable[[int], None] | None = None
    observe: Callable[[int, Tensor, AttentionSpec], None] | None = None


@dataclass(frozen=True, slots=True)
class RopeTables:
    """cos, sin: (P, R / 2) fp32, those of several embeddings side by side. rows: (N,) int64, which
    row each of the batch takes. room: how many tokens more each sequence may take with these
    tables; rows are its positions then."""

    cos: Tensor
    sin: Tensor
    rows: Tensor
    room: int = 0
