"""Where a step of a program finds and leaves its keys and values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kept.errors import OptionError
from kept.ops.cross_view import CrossView, InputBuffers
from kept.ops.kv_codec import KVCodec
from kept.ops.spec import AttentionSpec
from kept.ops.views import Span, StoredView

if TYPE_CHECKING:
    from kept import _native

_CODECS = {
    "float32": "fp32",
    "bfloat16": "bf16",
    "float16": "fp16",
    "int8": "int8",
    "int4": "int4",
}


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a layout keeps tokens: token i in entry i % block of block i // block of its sequence's
    table. window, sinks: what the layout itself forgets, None: nothing."""

    block: int
    sinks: int = 0
    window: int | None = None


class LentBuffers:
    """The buffers of a cache's layers as kernels take them; good while these stay the same.

    layouts: (L,) which of the cache's layouts each layer follows. generation: how often all these
    had moved before.
    """

    def __init__(
        self,
        codec: KVCodec,
        buffers: Sequence[tuple[Sequence[Tensor], Sequence[Tensor]]],
        layouts: Sequence[int],
        generation: int = 0,
    ) -> None:
        """buffers: (L,) of keys and values, each as their codec's `parts` orders them."""
        self.codec, self.layouts, self.generation = codec, list(layouts), generation
        self._buffers = [layer_buffers(keys, values) for keys, values in buffers]
        self._native: _native.Layers | None = None

    def native(self) -> _native.Layers:
        """What a step is bound to; checked and made once. Raises OptionError for a codec that the
        kernels do not read."""
        from kept import _native

        if self._native is None:
            kinds = codec_kinds(self.codec)
            self._native = _native.layers(*kinds, self._buffers, self.layouts)
        return self._native


def lend_input(codec: KVCodec, layers: Sequence[InputBuffers]) -> LentBuffers:
    """The cross layers of one encoder input."""
    slots = [([x[None] for x in of.keys], [x[None] for x in of.values]) for of in layers]
    return LentBuffers(codec, slots, [0] * len(slots))


@dataclass(frozen=True, slots=True)
class LentInputs:
    """The encoder inputs that the sequences of a step attend.

    buffers: (I,) the cross layers of each. lengths: (I,) tokens. of: (B,) which of them each
    sequence attends. num_new: the first so many are brought by the step, and to be written before
    they are read. view: of a cross layer, once they are.
    """

    buffers: Sequence[LentBuffers]
    lengths: Sequence[int]
    of: Sequence[int]
    num_new: int
    view: Callable[[int], CrossView]


@dataclass(frozen=True, slots=True)
class StepBuffers:
    """Where a step's keys and values go.

    placements: one per layout, as they are in this step. tables: for each of them (B, n) int32, the
    blocks of each sequence. lengths: for each (B,) of the sequences, the new tokens included. view:
    of a layer, what it holds once the new keys are written. visit: to be called before each layer,
    where its buffers are not all in memory. observe: to be called with each layer that stores and
    its queries (N, H, D), as `LayerStore.observe`, where the cache looks at them. inputs: what
    cross layers attend, where there are any.
    """

    buffers: LentBuffers
    placements: Sequence[Placement]
    tables: Sequence[NDArray[np.int32]]
    lengths: Sequence[Sequence[int]]
    view: Callable[[int], StoredView]
    visit: Callable[[int], None] | None = None
    observe: Callable[[int, Tensor, AttentionSpec], None] | None = None
    inputs: LentInputs | None = None


@dataclass(frozen=True, slots=True)
class RopeTables:
    """cos, sin: (P, R / 2) fp32, those of several embeddings side by side. rows: (N,) int64, which
    row each of the batch takes; None: its positions. room: how many tokens more each sequence may
    take with these tables, where rows are positions."""

    cos: Tensor
    sin: Tensor
    rows: Tensor | None
    room: int = 0


def one_block_each(slots: Sequence[int]) -> NDArray[np.int32]:
    """The table (B, 1) of sequences that lie in one block each, their slot."""
    return np.array(slots, dtype=np.int32)[:, None]


def table_of(span: Span) -> NDArray[np.int32]:
    """(B, n) the blocks of each sequence of a span; of one in a slot that is one block, the
    slot."""
    return one_block_each(span.slots) if span.blocks is None else span.blocks


def layer_buffers(keys: Sequence[Tensor], values: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """Codes and scales of keys, and of values, which may lie in the keys; None: there are none."""

    def side(parts: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        return parts[0], parts[1] if len(parts) > 1 else None

    return side(keys) + side(values or keys)


def codec_kinds(codec: KVCodec) -> tuple[_native.Codec, _native.Codec]:
    """The codecs of keys and of values as the kernels know them. Raises OptionError for one that
    they do not read."""
    from kept import _native

    names = [_CODECS.get(name) for name in codec.pair]
    if None in names:
        raise OptionError(
            f"the native kernels do not read keys and values of {codec.name}; store "
            f"them as one of {', '.join(_CODECS)}, or use KEPT_OPS=reference"
        )
    keys, values = (getattr(_native.Codec, str(name)) for name in names)
    return keys, values


def check_ids(name: str, ids: Tensor, count: int) -> None:
    """Raise OptionError for tensors of a batch (count,) that kernels do not read."""
    plain = ids.dtype == torch.int64 and ids.is_cpu and ids.is_contiguous()
    if not plain or ids.numel() != count:
        raise OptionError(
            f"the batch's {name} are {ids.numel()} of {ids.dtype} on {ids.device}; the native "
            f"kernels read {count} contiguous int64 numbers on the CPU, as kept.batch.pack makes"
        )
