"""What a layer's cache hands to attention: plain data, and a way to go dense.

A `Span` says where one step's keys lie; all layers of one layout share it, so masks are made once
a step. A view joins a span with a layer's stored keys and values, as their codec left them.

    starts     which packed query rows belong to which sequence
    lengths    how many tokens each sequence has, the new ones included: entry i holds token i, and
               entries from `lengths[b]` on are empty
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from kept.ops.codecs import Codec
from kept.ops.kv_codec import KVCodec


@dataclass(frozen=True)
class Group:
    """Sequences of a step that bring the same number of new tokens T, attended together.

    members: which sequences, (B',). first: the packed row of the first one where the members'
    rows lie end to end, else None. rows: (B', T) packed row numbers, needed only where not.
    """

    members: tuple[int, ...]
    num_new: int
    first: int | None
    rows: Tensor | None


@dataclass(frozen=True)
class Span:
    """Where the keys of one step lie, for every layer of one layout.

    starts: (B + 1,). slots: (B,). lengths: (B,) after this step. width: S, stored entries to read.
    window, sinks: what the cache itself forgets, on top of what the layer's spec hides. blocks:
    (B, n) in which blocks each sequence lies, one after the other; None: in one, its slot. memo:
    what layers of this step share.
    """

    starts: tuple[int, ...]
    slots: tuple[int, ...]
    lengths: tuple[int, ...]
    width: int
    device: torch.device
    window: int | None = None
    sinks: int = 0
    blocks: NDArray[np.int32] | None = None
    memo: dict[object, object] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """(B,) new tokens of each sequence."""
        return tuple(b - a for a, b in zip(self.starts, self.starts[1:], strict=False))

    @cached_property
    def begins(self) -> tuple[int, ...]:
        """(B,) the first token that a new one of each sequence may see by what the cache itself
        forgets, sinks aside."""
        if self.window is None:
            return (0,) * len(self.lengths)
        pairs = zip(self.lengths, self.counts, strict=True)
        return tuple(max(0, length - count - self.window + 1) for length, count in pairs)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Sequences gathered by their number of new tokens; those with none are left out."""
        members: dict[int, list[int]] = {}
        for sequence, count in enumerate(self.counts):
            if count:
                members.setdefault(count, []).append(sequence)
        return tuple(self._group(tuple(found), count) for count, found in members.items())

    def _group(self, members: tuple[int, ...], count: int) -> Group:
        first = self.starts[members[0]]
        together = all(self.starts[m] == first + i * count for i, m in enumerate(members))
        if together:
            return Group(members, count, first, None)
        begins = torch.tensor(
            [self.starts[m] for m in members], dtype=torch.int64, device=self.device
        )
        new = torch.arange(count, dtype=torch.int64, device=self.device)
        rows = begins[:, None] + new  # (B', T)
        return Group(members, count, None, rows)


class KVView(Protocol):
    """Stored keys and values as attention reads them."""

    @property
    def span(self) -> Span: ...

    def stored(self) -> tuple[Tensor, Tensor]:
        """Keys and values (B, G, S, D) of every token, or zeros where no query sees one.

        In their codecs' dtype: a copy in fp32 where they are stored as codes, else none.
        """
        ...

    def dense(self) -> tuple[Tensor, Tensor]:
        """Keys and values (B, G, S', D) in the order of the tokens, empty entries last, zero.

        They are what the step's queries may see by the cache's own rule, so one new token attends
        all that is not empty.
        """
        ...


@dataclass(frozen=True, slots=True)
class PackedView:
    """The keys of this step alone, packed (N, G, D): attention without a cache."""

    span: Span
    keys: Tensor
    values: Tensor

    def stored(self) -> tuple[Tensor, Tensor]:
        """See `KVView.stored`."""
        return self._padded(self.keys), self._padded(self.values)

    def dense(self) -> tuple[Tensor, Tensor]:
        """See `KVView.dense`."""
        return self.stored()

    def _padded(self, x: Tensor) -> Tensor:  # (N, G, D) -> (B, G, S, D)
        span = self.span
        if len(span.groups) == 1 and len(span.groups[0].members) == len(span.lengths):
            return x.view(len(span.lengths), span.width, *x.shape[1:]).transpose(1, 2)
        rows = [x[a:b] for a, b in zip(span.starts, span.starts[1:], strict=False)]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).transpose(1, 2)


@dataclass(frozen=True, slots=True)
class SlotView:
    """Sequences in the slots of buffers (slots, G, capacity, width); how they lie is a kind's.

    keys, values: one buffer for each part of their codec, as `Codec.parts` orders them. head_dim:
    D. value_dim: of values, where it is not D. No buffers of values: these are the first numbers of
    the keys.
    """

    span: Span
    codec: KVCodec
    head_dim: int
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    value_dim: int | None = None

    @property
    def value_width(self) -> int:
        """Numbers in a value of one head."""
        return self.head_dim if self.value_dim is None else self.value_dim

    @property
    def values_in_keys(self) -> bool:
        """Whether values are the first numbers of keys."""
        return not self.values

    def stored(self) -> tuple[Tensor, Tensor]:
        """See `KVView.stored`."""
        codec = self.codec
        keys = self._decoded(codec.keys, self.keys, self.head_dim)
        if self.values_in_keys:
            return keys, keys[..., : self.value_width]
        values = self._decoded(codec.values, self.values, self.value_width)
        return keys, values

    def _decoded(self, codec: Codec, buffers: tuple[Tensor, ...], width: int) -> Tensor:
        found = codec.read([take(x, self.span) for x in buffers], width)
        return codec.turned(found).to(self.codec.dtype)


@dataclass(frozen=True, slots=True)
class ContiguousView(SlotView):
    """Each sequence's tokens in order in its slot."""

    def dense(self) -> tuple[Tensor, Tensor]:
        """See `KVView.dense`; no copy where all sequences are equally long."""
        keys, values = self.stored()
        if min(self.span.lengths) == self.span.width:
            return keys, values
        lengths = torch.tensor(self.span.lengths, dtype=torch.int64, device=keys.device)
        entries = torch.arange(self.span.width, dtype=torch.int64, device=keys.device)
        empty = entries >= lengths[:, None]
        empty = empty[:, None, :, None]
        return keys.masked_fill(empty, 0), values.masked_fill(empty, 0)


@dataclass(frozen=True, slots=True)
class BlockView(SlotView):
    """Each sequence's tokens in order in its blocks, of buffers (blocks, G, 64, width); of those
    between the span's sinks and its window nothing is read."""

    def in_runs(self) -> ContiguousView:
        """The same in a copy of one run for each sequence, in the same codes, with zeros for what
        the step's queries do not see by the cache's own rule."""
        span = self.span
        inner = replace(span, slots=tuple(range(len(span.slots))), blocks=None, memo={})
        hidden = self._hidden()
        keys, values = (
            tuple(self._gathered(x, hidden) for x in buffers)
            for buffers in (self.keys, self.values)
        )
        return ContiguousView(inner, self.codec, self.head_dim, keys, values, self.value_dim)

    def stored(self) -> tuple[Tensor, Tensor]:
        """See `KVView.stored`; a copy."""
        return self.in_runs().stored()

    def dense(self) -> tuple[Tensor, Tensor]:
        """See `KVView.dense`."""
        keys, values = self.stored()
        begins, lengths, sinks = self.span.begins, self.span.lengths, self.span.sinks
        if not any(begins):
            return keys, values
        width = max(min(a, sinks) + b - a for a, b in zip(begins, lengths, strict=True))
        first = torch.tensor(begins, dtype=torch.int64, device=keys.device)[:, None]
        sunk = first.clamp(max=sinks)
        entries = torch.arange(width, dtype=torch.int64, device=keys.device)
        entries = torch.where(entries < sunk, entries, entries + first - sunk)  # (B, S')
        # Behind the end of one that is shorter stand zeros, as far as there is anything.
        keys, values = (F.pad(x, (0, 0, 0, width)) for x in (keys, values))
        order = entries[:, None, :, None]
        return keys.take_along_dim(order, dim=2), values.take_along_dim(order, dim=2)

    def _hidden(self) -> Tensor | None:
        """(B, 1, S, 1) which entries hold nothing that is seen; None: none."""
        span = self.span
        if min(span.lengths) == span.width and not any(span.begins):
            return None
        first, lengths = (
            torch.tensor(x, dtype=torch.int64, device=span.device)[:, None]
            for x in (span.begins, span.lengths)
        )
        entries = torch.arange(span.width, dtype=torch.int64, device=span.device)
        passed = (entries < first) & (entries >= span.sinks)
        return ((entries >= lengths) | passed)[:, None, :, None]

    def _gathered(self, buffer: Tensor, hidden: Tensor | None) -> Tensor:  # (B, G, S, width)
        span, block = self.span, buffer.shape[2]
        sunk = min(-(-span.sinks // block), min(span.begins) // block)
        gap = min(span.begins) // block - sunk  # blocks that no sequence needs
        table = span.memo.get("blocks")
        if not isinstance(table, Tensor):
            assert span.blocks is not None
            columns = np.r_[:sunk, sunk + gap : -(-span.width // block)]
            table = torch.from_numpy(span.blocks[:, columns].astype(np.int64)).to(buffer.device)
            span.memo["blocks"] = table
        # Not by brackets: torch would have all its threads look at the size of the whole buffer.
        blocks = buffer.index_select(0, table.flatten()).unflatten(0, table.shape)
        found: Tensor = blocks.transpose(1, 2).flatten(2, 3)  # (B, G, n * 64, width)
        if gap:
            sinks, rest = found.split([sunk * block, found.shape[2] - sunk * block], dim=2)
            found = torch.cat((F.pad(sinks, (0, 0, 0, gap * block)), rest), dim=2)
        found = found[:, :, : span.width]
        # What is there may be another's, or no number, which a zero weight does not undo.
        return found if hidden is None else found.masked_fill(hidden, 0)


StoredView = ContiguousView | BlockView  # what a layer of a cache hands out


def take(buffer: Tensor, span: Span) -> Tensor:
    """The first S entries of the span's slots, (B, G, S, width); no copy of slots in order."""
    first, count = span.slots[0], len(span.slots)
    if span.slots == tuple(range(first, first + count)):
        return buffer[first : first + count, :, : span.width]
    slots = torch.tensor(span.slots, dtype=torch.int64, device=buffer.device)
    return buffer[slots, :, : span.width]
