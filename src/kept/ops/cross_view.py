"""What attention reads of encoder inputs: each is stored once, whoever attends it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from kept.ops.kv_codec import KVCodec
from kept.ops.views import Span


@dataclass(frozen=True, slots=True)
class InputBuffers:
    """One encoder input in one layer, written once: a buffer (G, S, width) for each part of its
    codec, as `Codec.parts` orders them."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class CrossView:
    """Encoder inputs, each stored once, and the sequences of a step that attend them.

        inputs      0: x x x x x     1: x x x         span.lengths   (5, 5, 3, 5)
        sequences   a, b, d          c                of             (0, 0, 1, 0)

    span: `lengths` are those of the inputs, as the sequences see them; nothing in it is new.
    inputs: (I,). of: (B,) which of them each sequence attends.
    """

    span: Span
    codec: KVCodec
    head_dim: int
    inputs: tuple[InputBuffers, ...]
    of: tuple[int, ...]

    def stored(self) -> tuple[Tensor, Tensor]:
        """See `KVView.stored`; a copy for each sequence, and zeros where its input has ended."""
        found = [self._decoded(buffers) for buffers in self.inputs]
        keys, values = (
            torch.nn.utils.rnn.pad_sequence(
                [found[i][which].transpose(0, 1) for i in self.of], batch_first=True
            ).transpose(1, 2)
            for which in (0, 1)
        )
        return keys, values

    def dense(self) -> tuple[Tensor, Tensor]:
        """See `KVView.dense`."""
        return self.stored()

    def by_input(self) -> Iterator[tuple[slice | Tensor, Tensor, Tensor]]:
        """For each input the packed rows that attend it, and its keys and values (G, S, D)."""
        for rows, buffers in zip(self._readers(), self.inputs, strict=True):
            yield rows, *self._decoded(buffers)

    def _decoded(self, buffers: InputBuffers) -> tuple[Tensor, Tensor]:
        keys = self.codec.keys.decode(buffers.keys, self.head_dim)
        values = self.codec.values.decode(buffers.values, self.head_dim)
        return keys.to(self.codec.dtype), values.to(self.codec.dtype)

    def _readers(self) -> list[slice | Tensor]:
        """The rows of each input, found once a step for all layers."""
        key = ("readers", self.of)
        found = self.span.memo.get(key)
        if not isinstance(found, list):
            found = [self._rows(i) for i in range(len(self.inputs))]
            self.span.memo[key] = found
        return found

    def _rows(self, index: int) -> slice | Tensor:
        starts = self.span.starts
        ranges = [(starts[b], starts[b + 1]) for b, i in enumerate(self.of) if i == index]
        if all(a[1] == b[0] for a, b in pairwise(ranges)):
            return slice(ranges[0][0], ranges[-1][1])
        rows = [row for a, b in ranges for row in range(a, b)]
        return torch.tensor(rows, dtype=torch.int64, device=self.span.device)
