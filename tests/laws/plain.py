"""The cache that cannot be wrong: Python lists of tokens, and attention by the definition.

It knows no entry, capacity or ring, only which tokens a ring has promised to keep. Of a token it
keeps what the codec leaves, worked out on its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kept.blocks import BLOCK
from kept.ops import AttentionSpec
from laws.kinds import Kind, Ring, Rows
from laws.rounding import rounded, sides

Token = tuple[Tensor, Tensor]  # key and value, (G, D) each


@dataclass
class Slot:
    """One sequence. layers: per layer its tokens, all of them. kept_from: per layer the first
    token past the sinks that a ring still has. input: per cross layer the tokens of the encoder
    input; slots that attend the same one hold the same list."""

    layers: list[list[Token]]
    kept_from: list[int]
    input: list[list[Token]]

    def copy(self) -> Slot:
        """Independent lists but for the input's; the tensors are never written to."""
        return Slot([list(tokens) for tokens in self.layers], list(self.kept_from), self.input)


@dataclass
class PlainCache:
    """kind: what is being modelled. wide: (L,) capacity a failed step has left a ring with."""

    kind: Kind
    slots: list[Slot]
    wide: list[int] = field(default_factory=list)

    @classmethod
    def empty(cls, kind: Kind, num_slots: int) -> PlainCache:
        """No tokens in any slot."""
        num_layers = len(kind.shapes)
        layers = range(num_layers)
        slots = [Slot([[] for _ in layers], [0] * num_layers, []) for _ in range(num_slots)]
        found = cls(kind, slots, [0] * num_layers)
        found.give_inputs(range(num_slots), kind.inputs(num_slots))
        return found

    def give_inputs(self, slots: Sequence[int], inputs: Sequence[Rows]) -> None:
        """Let slots attend new inputs."""
        for slot, rows in zip(slots, inputs, strict=True):
            tokens = [list(zip(k, v, strict=True)) for k, v in rows]
            self.slots[slot].input = [kept(of_layer, self.kind.codec) for of_layer in tokens]

    def input_bytes(self) -> int:
        """Bytes of the inputs, however many slots attend each."""
        inputs = {id(slot.input): slot.input for slot in self.slots}.values()
        first = len(self.kind.shapes)
        return sum(
            len(tokens) * self.kind.token_bytes(first + layer)
            for held in inputs
            for layer, tokens in enumerate(held)
        )

    @property
    def lengths(self) -> tuple[int, ...]:
        """(slots,) tokens of each."""
        return tuple(len(slot.layers[0]) for slot in self.slots)

    def copy(self) -> PlainCache:
        """What `fork` makes."""
        return PlainCache(self.kind, [slot.copy() for slot in self.slots], list(self.wide))

    def select(self, indices: Sequence[int]) -> None:
        """See `Cache.select`."""
        self.slots = [self.slots[i].copy() for i in indices]

    def concatenate(self, other: PlainCache) -> PlainCache:
        """See `Cache.concatenate`."""
        wide = [max(pair) for pair in zip(self.wide, other.wide, strict=True)]
        return PlainCache(self.kind, self.copy().slots + other.copy().slots, wide)

    def append(self, slots: Sequence[int], new: Sequence[Sequence[Sequence[Token]]]) -> None:
        """Store a step. new: per sequence and layer, its tokens."""
        self._overwrite(slots, [len(layers[0]) for layers in new])
        for slot, layers in zip(slots, new, strict=True):
            for held, tokens in zip(self.slots[slot].layers, layers, strict=True):
                held.extend(kept(tokens, self.kind.codec))
        for layer, ring in enumerate(self.kind.rings):
            if ring is not None:
                self.wide[layer] = ring.width
                for slot in slots:
                    oldest = len(self.slots[slot].layers[layer]) - ring.window - ring.slack
                    if self.kind.in_blocks:
                        oldest = (oldest + 1) // BLOCK * BLOCK  # whole blocks go
                    self._forget(slot, layer, oldest)

    def fail(self, slots: Sequence[int], counts: Sequence[int]) -> None:
        """A step of `counts` tokens was begun and raised: no token came, some slack is gone."""
        self._overwrite(slots, counts)

    def _overwrite(self, slots: Sequence[int], counts: Sequence[int]) -> None:
        if self.kind.in_blocks:
            return
        lengths = self.lengths
        longest = max(lengths[s] + n for s, n in zip(slots, counts, strict=True))
        for layer, ring in enumerate(self.kind.rings):
            if ring is None:
                continue
            room = max(ring.width, ring.sinks + ring.window - 1 + max(counts))
            self.wide[layer] = max(self.wide[layer], ring.width, min(longest, room))
            for slot, count in zip(slots, counts, strict=True):
                around = self.wide[layer] - ring.sinks
                self._forget(slot, layer, lengths[slot] + count - around)

    def _forget(self, slot: int, layer: int, before: int) -> None:
        kept = self.slots[slot].kept_from
        kept[layer] = max(kept[layer], before)

    def gone(self, slot: int, layer: int, begin: int, end: int) -> bool:
        """Whether a ring has dropped one of the tokens begin to end."""
        ring = self.kind.rings[layer]
        if ring is None:
            return False
        return max(begin, ring.sinks) < min(end, self.slots[slot].kept_from[layer])

    def can_truncate(self, slot: int, length: int) -> bool:
        """Whether every token that a query at `length` may see is still there."""
        if length >= self.lengths[slot]:
            return True
        for layer, ring in enumerate(self.kind.rings):
            if ring is not None:
                needed = range(max(0, length - ring.window + 1), length)
                if any(self.gone(slot, layer, token, token + 1) for token in needed):
                    return False
        return True

    def truncate(self, lengths: Sequence[int]) -> None:
        """See `Cache.truncate`."""
        for slot, length in zip(self.slots, lengths, strict=True):
            slot.layers = [tokens[:length] for tokens in slot.layers]
            slot.kept_from = [min(kept, length) for kept in slot.kept_from]

    def attend(self, slot: int, layer: int, queries: Tensor, spec: AttentionSpec) -> Tensor:
        """Attention of the last T tokens' queries (T, H, D), in float64."""
        num_layers = len(self.kind.shapes)
        if layer >= num_layers:
            return plain_attention(queries, self.slots[slot].input[layer - num_layers], spec)
        tokens = self.slots[slot].layers[layer]
        return plain_attention(queries, tokens, spec, self.kind.rings[layer])

    def readable(self, slot: int, layer: int, num_new: int) -> list[Token]:
        """What `dense` owes to a step that brought the last `num_new` tokens, oldest first."""
        num_layers = len(self.kind.shapes)
        if layer >= num_layers:
            return self.slots[slot].input[layer - num_layers]
        tokens, ring = self.slots[slot].layers[layer], self.kind.rings[layer]
        if ring is None:
            return tokens
        begin = max(ring.sinks, len(tokens) - num_new - ring.window + 1)
        return tokens[: ring.sinks] + tokens[begin:]


def kept(tokens: Sequence[Token], codec: str | tuple[str, str]) -> list[Token]:
    """What a codec leaves of each key and value."""
    if not tokens or codec == "float32":
        return list(tokens)
    (keys, values), (of_keys, of_values) = map(torch.stack, zip(*tokens, strict=True)), sides(codec)
    keys, values = rounded(keys, of_keys, are_keys=True), rounded(values, of_values)
    return list(zip(keys, values, strict=True))


def sees(query: int, key: int, spec: AttentionSpec, ring: Ring | None) -> bool:
    """Whether the token at `query` sees the one at `key`, by the definition."""
    if not spec.causal:
        return True
    limits = [(spec.window, spec.sinks)] if spec.window is not None else []
    if ring is not None:
        limits.append((ring.window, ring.sinks))
    near = all(key > query - window or key < sinks for window, sinks in limits if window)
    return key <= query and near


def plain_attention(
    queries: Tensor, tokens: Sequence[Token], spec: AttentionSpec, ring: Ring | None = None
) -> Tensor:
    """softmax(scale * q k) v with one key per query head, and visibility decided pair by pair.

    queries: (T, H, D), those of the last T tokens. Returns (T, H, D) float64.
    """
    first, share = len(tokens) - len(queries), queries.shape[1] // tokens[0][0].shape[0]
    keys, values = (
        torch.stack(x).double().repeat_interleave(share, 1) for x in zip(*tokens, strict=True)
    )  # (S, H, D): every query head has keys of its own
    hidden = torch.tensor(
        [
            [not sees(first + i, j, spec, ring) for j in range(len(tokens))]
            for i in range(len(queries))
        ]
    )
    scores = torch.einsum("thd,shd->ths", queries.double(), keys) * spec.scale
    if spec.softcap is not None:
        scores = spec.softcap * torch.tanh(scores / spec.softcap)
    weights = scores.masked_fill(hidden[:, None], -math.inf).softmax(-1)
    return torch.einsum("ths,shd->thd", weights, values)
