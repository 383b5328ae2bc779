"""The cache that cannot be wrong: Python lists of tokens, and attention by the definition.

It knows no entry, table or capacity, only which tokens a window has promised to keep. Of a token it
keeps what the codec leaves, worked out on its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kept.ops import AttentionSpec
from laws.kinds import Kind, Rows, Window
from laws.rounding import rounded, sides

Token = tuple[Tensor, Tensor]  # key and value, (G, D) each


@dataclass
class Slot:
    """One sequence. layers: per layer its tokens, all of them. kept_from: per layer the first
    token past the sinks that its window still has. input: per cross layer the tokens of the encoder
    input; slots that attend the same one hold the same list."""

    layers: list[list[Token]]
    kept_from: list[int]
    input: list[list[Token]]

    def copy(self) -> Slot:
        """Independent lists but for the input's; the tensors are never written to."""
        return Slot([list(tokens) for tokens in self.layers], list(self.kept_from), self.input)


@dataclass
class PlainCache:
    """kind: what is being modelled."""

    kind: Kind
    slots: list[Slot]

    @classmethod
    def empty(cls, kind: Kind, num_slots: int) -> PlainCache:
        """No tokens in any slot."""
        num_layers = len(kind.shapes)
        layers = range(num_layers)
        slots = [Slot([[] for _ in layers], [0] * num_layers, []) for _ in range(num_slots)]
        found = cls(kind, slots)
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
        return PlainCache(self.kind, [slot.copy() for slot in self.slots])

    def select(self, indices: Sequence[int]) -> None:
        """See `Cache.select`."""
        self.slots = [self.slots[i].copy() for i in indices]

    def concatenate(self, other: PlainCache) -> PlainCache:
        """See `Cache.concatenate`."""
        return PlainCache(self.kind, self.copy().slots + other.copy().slots)

    def append(self, slots: Sequence[int], new: Sequence[Sequence[Sequence[Token]]]) -> None:
        """Store a step. new: per sequence and layer, its tokens."""
        for slot, layers in zip(slots, new, strict=True):
            for held, tokens in zip(self.slots[slot].layers, layers, strict=True):
                held.extend(kept(tokens, self.kind.codec))
        for layer, window in enumerate(self.kind.windows):
            if window is not None:
                for held in (self.slots[slot] for slot in slots):
                    passed = window.passed(len(held.layers[layer]))
                    held.kept_from[layer] = max(held.kept_from[layer], passed)

    def gone(self, slot: int, layer: int, begin: int, end: int) -> bool:
        """Whether one of the tokens begin to end has been let go."""
        window = self.kind.windows[layer]
        if window is None:
            return False
        return max(begin, window.sunk) < min(end, self.slots[slot].kept_from[layer])

    def can_truncate(self, slot: int, length: int) -> bool:
        """Whether every token that a query at `length` may see is still there, and the last one, in
        whose block it may come to lie."""
        if length >= self.lengths[slot]:
            return True
        for layer, window in enumerate(self.kind.windows):
            if window is not None:
                begin = max(0, min(length - window.size + 1, length - 1))
                if self.gone(slot, layer, begin, length):
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
        return plain_attention(queries, tokens, spec, self.kind.windows[layer])

    def readable(self, slot: int, layer: int, num_new: int) -> list[Token]:
        """What `dense` owes to a step that brought the last `num_new` tokens, oldest first."""
        num_layers = len(self.kind.shapes)
        if layer >= num_layers:
            return self.slots[slot].input[layer - num_layers]
        tokens, window = self.slots[slot].layers[layer], self.kind.windows[layer]
        if window is None:
            return tokens
        begin = max(window.sinks, len(tokens) - num_new - window.size + 1)
        return tokens[: window.sinks] + tokens[begin:]


def kept(tokens: Sequence[Token], codec: str | tuple[str, str]) -> list[Token]:
    """What a codec leaves of each key and value."""
    if not tokens or codec == "float32":
        return list(tokens)
    (keys, values), (of_keys, of_values) = map(torch.stack, zip(*tokens, strict=True)), sides(codec)
    keys, values = rounded(keys, of_keys, are_keys=True), rounded(values, of_values)
    return list(zip(keys, values, strict=True))


def sees(query: Any, key: Any, spec: AttentionSpec, kept: Window | None) -> Any:
    """Whether the token at `query` sees the one at `key`, by the definition; of tensors of both,
    each pair."""
    if not spec.causal:
        return key == key
    limits = [(spec.window, spec.sinks)] if spec.window is not None else []
    if kept is not None:
        limits.append((kept.size, kept.sinks))
    seen = key <= query
    for window, sinks in limits:
        if window:
            seen = seen & ((key > query - window) | (key < sinks))
    return seen


def plain_attention(
    queries: Tensor, tokens: Sequence[Token], spec: AttentionSpec, kept: Window | None = None
) -> Tensor:
    """softmax(scale * q k) v with one key per query head, and visibility decided pair by pair.

    queries: (T, H, D), those of the last T tokens. Returns (T, H, D) float64.
    """
    first, share = len(tokens) - len(queries), queries.shape[1] // tokens[0][0].shape[0]
    keys, values = (
        torch.stack(x).double().repeat_interleave(share, 1) for x in zip(*tokens, strict=True)
    )  # (S, H, D): every query head has keys of its own
    at = torch.arange(first, len(tokens))[:, None]
    hidden = ~sees(at, torch.arange(len(tokens)), spec, kept)  # (T, S), or (S) for all queries
    scores = torch.einsum("thd,shd->ths", queries.double(), keys) * spec.scale
    if spec.softcap is not None:
        scores = spec.softcap * torch.tanh(scores / spec.softcap)
    weights = scores.masked_fill(hidden[..., None, :], -math.inf).softmax(-1)
    return torch.einsum("ths,shd->thd", weights, values)
