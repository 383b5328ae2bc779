"""What scores by attention look at: the last queries of a sequence, and what entries received.

Queries are kept until a sequence comes to a multiple of `grain` tokens. Nothing has left meanwhile,
so that their attention can be computed then, all at once, as it was:

    grain 4, 8 tokens     entries  0  2  3 | 4  5  6  7      0 2 3: what an eviction at 4 left
                          query 4  x  x  x | x  .  .  .
                                5  x  x  x | x  x  .  .
                                6  x  x  x | x  x  x  .      received: the sum of each column,
                                7  x  x  x | x  x  x  x      added to what it was before

Each query is seen once, in one product of the same shape whatever the steps were, on one thread:
the numbers depend on the sequence alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from kept.cache.layout import lasting
from kept.cache.memory import zeros
from kept.errors import CacheError
from kept.ops import AttentionSpec
from kept.ops.reference import soften


@dataclass(frozen=True, slots=True)
class Observed:
    """The queries of the W tokens before an eviction, and how they attend.

    queries: (G, R, W, D) fp32, of the R query heads that read each key head, rotated as keys are.
    The tokens are the last ones of the entries.
    """

    queries: Tensor
    spec: AttentionSpec

    def scores(self, keys: Tensor) -> Tensor:
        """(G, R, W, S) fp32, what a softmax is taken of; keys: (G, S, D). Nothing is hidden."""
        heads, share, count, width = self.queries.shape
        found = self.queries.reshape(heads, share * count, width) @ keys.float().transpose(1, 2)
        found = found.view(heads, share, count, -1) * self.spec.scale
        cap = self.spec.softcap
        return found if cap is None else cap * torch.tanh(found / cap)

    def weights(self, keys: Tensor) -> Tensor:
        """(G, R, W, S) fp32, the attention that each query paid to the entries up to itself."""
        scores = self.scores(keys)
        count = scores.shape[2]
        later = torch.ones(count, count, dtype=torch.bool, device=scores.device).triu(1)
        scores[..., -count:].masked_fill_(later, -torch.inf)
        return soften(scores, self.spec)


class Observer:
    """The queries of one layer's sequences since they last came to a multiple of `grain` tokens.

    queries: (slots, H, grain, D), token i's at i modulo `grain`; None before there are any, since
    the first ones say how many heads there are. received: (slots, G, budget) fp32, the attention
    that each entry has received by then, added over queries and over the heads that share its keys.
    """

    def __init__(
        self,
        grain: int,
        size: tuple[int, int, int, int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """size: slots, G, budget, D. dtype: of the queries."""
        num_slots, heads, budget, width = size
        self.grain, self.dtype, self._heads, self._width = grain, dtype, heads, width
        self.queries: Tensor | None = None
        self.spec: AttentionSpec | None = None
        with lasting():
            self.received = torch.zeros(
                num_slots, heads, budget, dtype=torch.float32, device=device
            )

    def see(self, q: Tensor, slots: Tensor, tokens: Tensor, spec: AttentionSpec) -> None:
        """Keep the queries (N, H, D) of a step's rows. slots, tokens: (N,) which they are of.

        Raises CacheError for queries that do not fit the layer's keys.
        """
        heads = self._heads
        fits = q.ndim == 3 and len(q) == len(tokens) and q.shape[2] == self._width
        if fits and self.queries is not None:
            fits = q.shape[1] == self.queries.shape[1]
        if not fits or q.shape[1] < heads or q.shape[1] % heads:
            raise CacheError(
                f"queries {tuple(q.shape)} do not fit this layer, which takes (rows, heads, head) "
                f"= ({len(tokens)}, a multiple of {heads}, {self._width}); show it the queries "
                "that attend its keys"
            )
        if self.queries is None:
            with lasting():
                room = len(self.received), q.shape[1], self.grain, self._width
                self.queries = zeros(room, self.dtype, self.received.device)
        self.queries[slots, :, tokens % self.grain] = q.detach().to(self.queries)
        self.spec = spec

    def observed(self, slot: int) -> Observed:
        """The queries of a slot that has come to a multiple of `grain` tokens."""
        assert self.queries is not None, "a step that stores shows its queries"
        assert self.spec is not None
        queries = self.queries[slot].float()  # (H, W, D)
        return Observed(queries.unflatten(0, (self._heads, -1)), self.spec)

    def total(self, slot: int, observed: Observed, keys: Tensor, length: int) -> Tensor:
        """(G, S) fp32, what the entries of these keys (G, S, D) have received, the observed queries
        among it. length: tokens of the slot."""
        found = observed.weights(keys).sum(dim=(1, 2))
        held = found.shape[1] - self.grain if length > self.grain else 0
        found[:, :held] += self.received[slot, :, :held]
        return found

    def selected(self, indices: Tensor) -> Observer:
        """Slot i a copy of what slot indices[i] is. indices: (slots,) int64."""
        twin = copy(self)
        with lasting():
            twin.received = self.received[indices]
            if self.queries is not None:
                room = zeros((len(indices), *self.queries.shape[1:]), self.dtype, indices.device)
                twin.queries = torch.index_select(self.queries, 0, indices, out=room)
        return twin

    def take(self, begin: int, source: Observer) -> None:
        """Copy what another one holds to slots from `begin` on."""
        count = len(source.received)
        with lasting():
            self.received[begin : begin + count] = source.received
            if source.queries is None:
                return
            if self.queries is None:
                size = len(self.received), *source.queries.shape[1:]
                self.queries = zeros(size, self.dtype, self.received.device)
            self.queries[begin : begin + count] = source.queries
        self.spec = source.spec

    def restore(self, queries: Tensor | None, received: Tensor) -> None:
        """Take on what a file holds; a copy, on the layer's device."""
        with lasting():
            self.received = received.to(self.received.device)
            self.queries = None if queries is None else queries.to(self.received.device)

    def fork(self) -> Observer:
        """An independent copy."""
        every = torch.arange(len(self.received), dtype=torch.int64, device=self.received.device)
        return self.selected(every)

    @property
    def num_bytes(self) -> int:
        """Bytes of queries and sums."""
        return self.received.nbytes + (0 if self.queries is None else self.queries.nbytes)


def rows_of(
    starts: Sequence[int], slots: Sequence[int], before: Sequence[int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """(N,) the slot and (N,) the token of each row of a step. before: (B,) tokens of each sequence
    without the step's."""
    begins, slot, first = (
        torch.tensor(x, dtype=torch.int64, device="cpu") for x in (starts, slots, before)
    )
    counts = begins.diff()
    tokens = torch.arange(starts[-1], dtype=torch.int64, device="cpu")
    tokens += (first - begins[:-1]).repeat_interleave(counts)
    return slot.repeat_interleave(counts).to(device), tokens.to(device)
