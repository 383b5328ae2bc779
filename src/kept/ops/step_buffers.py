"""Where a step of a program finds and leaves its keys and values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from kept.ops.codecs import Codec
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


class LentBuffers:
    """The buffers of a cache's layers, as their addresses; good while these stay the same.

    addresses: for each layer keys, their scales, values, theirs; 0: no scales. layouts: (L,) which
    of the cache's layouts each layer follows.
    """

    def __init__(
        self,
        codec: Codec,
        buffers: Sequence[tuple[Sequence[Tensor], Sequence[Tensor]]],
        layouts: Sequence[int],
    ) -> None:
        """buffers: (L,) of keys and values, each as `Codec.parts` orders them."""
        self.codec, self.layouts = codec, list(layouts)
        self._alive = buffers
        self.addresses = [
            place
            for layer in buffers
            for parts in layer
            for place in (address(parts[0]), address(parts[1] if len(parts) > 1 else None))
        ]


@dataclass(frozen=True, slots=True)
class StepBuffers:
    """Where a step's keys and values go.

    placements: one per layout, as they are in this step. lengths: for each layout (B,) entries of
    the sequences, the new ones included. view: of a layer, what it holds once the new keys are
    written. watches: by layer, what is to be shown its queries (N, H, D) before they attend.
    """

    buffers: LentBuffers
    placements: Sequence[Placement]
    lengths: Sequence[Sequence[int]]
    view: Callable[[int], StoredView]
    watches: Mapping[int, Callable[[Tensor, AttentionSpec], None]]


@dataclass(frozen=True, slots=True)
class RopeTables:
    """cos, sin: (P, R / 2) fp32. rows: (N,) int64, which row each of the batch takes. room: how
    many tokens more each sequence may take with these tables; rows are its positions then."""

    cos: Tensor
    sin: Tensor
    rows: Tensor
    room: int = 0
