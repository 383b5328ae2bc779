"""The cross layers of a cache: encoder inputs, written once, and which of them each slot attends.

    slots     0  1  2  3          inputs    A   x x x x x     for every cross layer keys and
    attend    A  A  B  A                    B   x x x         values (G, S, D), in their codec

However many beams, samples or forks go on from an input, its keys and values lie in memory once:
operations on slots move the map alone. An input goes when the last slot that attends it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from kept.batch import Source
from kept.cache.layout import lasting
from kept.cache.shape import KVShape
from kept.errors import CacheError
from kept.ops import Codec, CrossView, InputBuffers, Span, find_codec


@dataclass(frozen=True, slots=True, eq=False)
class EncodedInput:
    """One encoder input. length: S. layers: (cross layers,); never written to again."""

    length: int
    layers: tuple[InputBuffers, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of its buffers."""
        return sum(x.nbytes for layer in self.layers for x in layer.keys + layer.values)


class CrossLayers:
    """Which input each slot of a cache attends.

    shapes: (cross layers,). of: (slots,) None: none yet. Operations replace `of`, and never what it
    holds.
    """

    def __init__(
        self,
        shapes: Sequence[KVShape],
        of: Sequence[EncodedInput | None],
        codec: Codec,
        device: torch.device,
    ) -> None:
        self.shapes, self.codec, self.device = tuple(shapes), codec, device
        self.of = list(of)

    @property
    def lengths(self) -> tuple[int, ...]:
        """(slots,) tokens of each slot's input, 0 where there is none."""
        return tuple(0 if found is None else found.length for found in self.of)

    @property
    def inputs(self) -> tuple[EncodedInput, ...]:
        """The inputs that any slot attends, each once, in the order of the slots."""
        return tuple(dict.fromkeys(found for found in self.of if found is not None))

    @property
    def num_bytes(self) -> int:
        """Bytes of all inputs; there is no unused room."""
        return sum(found.num_bytes for found in self.inputs)

    def select(self, indices: Sequence[int]) -> None:
        """Slot i attends what slot indices[i] did."""
        self.of = [self.of[i] for i in indices]

    def fork(self) -> CrossLayers:
        """An independent map to the same inputs."""
        return CrossLayers(self.shapes, self.of, self.codec, self.device)

    def begin(
        self,
        starts: tuple[int, ...],
        slots: tuple[int, ...],
        lengths: Sequence[int],
        source: Source | None,
    ) -> CrossStep:
        """A step of sequences in `slots`. lengths: (B,) tokens that each holds before it.

        Raises CacheError for a sequence without an input, or one that brings a new input although
        its tokens have attended another.
        """
        brought = (None,) * len(slots) if source is None else source.of
        for slot, length, new in zip(slots, lengths, brought, strict=True):
            if new is None and self.of[slot] is None:
                raise CacheError(
                    f"slot {slot} has no encoder input to attend; give the step one (a batch's "
                    "source, the model's input_ids)"
                )
            if new is not None and length:
                raise CacheError(
                    f"slot {slot} holds {length} tokens that have attended another input, and "
                    "this step brings a new one; truncate the slot to 0 first, or leave the "
                    "input out to go on with the old one"
                )
        held = [self.of[s] if n is None else None for s, n in zip(slots, brought, strict=True)]
        return CrossStep(starts, slots, held, source, self.codec, self.device, self.shapes)

    def read(self, index: int, begin: int) -> list[tuple[Tensor, Tensor]]:
        """Keys and values (G, S - begin, D) of one cross layer, per slot, decoded."""
        shape, codec = self.shapes[index], self.codec
        empty = torch.zeros(shape.num_kv_heads, 0, shape.head_dim, device=self.device)
        found = []
        for held in self.of:
            if held is None:
                found.append((empty.to(codec.dtype), empty.to(codec.dtype)))
                continue
            layer = held.layers[index]
            keys, values = (
                codec.decode([x[:, begin:] for x in buffers], shape.head_dim)
                for buffers in (layer.keys, layer.values)
            )
            found.append((keys, values))
        return found


class CrossStep:
    """The cross layers of one step, or of one pass without a cache (codec None: keys as they come).

    held: (B,) the input that each sequence goes on with, None: one that `source` brings.
    """

    def __init__(
        self,
        starts: tuple[int, ...],
        slots: tuple[int, ...],
        held: Sequence[EncodedInput | None],
        source: Source | None,
        codec: Codec | None,
        device: torch.device,
        shapes: Sequence[KVShape],
    ) -> None:
        self.slots, self.source, self._codec, self._shapes = slots, source, codec, tuple(shapes)
        self._held = tuple(dict.fromkeys(found for found in held if found is not None))
        self._new: list[tuple[InputBuffers, ...] | None] = [None] * len(self._shapes)
        fresh = () if source is None else source.lengths
        self._of = tuple(
            self._number(found, None if source is None else source.of[b], len(fresh))
            for b, found in enumerate(held)
        )
        every = (*fresh, *(found.length for found in self._held))
        lengths = tuple(every[i] for i in self._of)
        self.span = Span(starts, slots, lengths, max(lengths), device)

    def _number(self, held: EncodedInput | None, new: int | None, num_new: int) -> int:
        if held is not None:
            return num_new + self._held.index(held)
        assert new is not None
        return new

    @property
    def stored(self) -> set[int]:
        """The layers that have what the source brings."""
        return {layer for layer, new in enumerate(self._new) if new is not None}

    def check_done(self) -> None:
        """Raise CacheError unless every layer has what the source brings."""
        if self.source is not None and len(self.stored) < len(self._new):
            raise CacheError(
                f"{len(self.stored)} of {len(self._new)} cross layers have stored the encoder "
                "input that this step brings; append() its keys and values to each"
            )

    def put(self, layer: int, k: Tensor, v: Tensor) -> CrossView:
        """Store the keys and values (M, G, D) of the source's rows; returns what is attended.

        Raises CacheError for another shape, or a step that brings no input.
        """
        shape = self._shapes[layer]
        if self.source is None:
            raise CacheError(
                "this step brings no encoder input, so there is nothing to store in a cross layer; "
                "attend its view()"
            )
        expected = (self.source.starts[-1], shape.num_kv_heads, shape.head_dim)
        if k.shape != expected or v.shape != expected:
            raise CacheError(
                f"keys {tuple(k.shape)} and values {tuple(v.shape)} do not fit this cross layer, "
                f"which takes (input rows, heads, head) = {expected}; make the cache from "
                "model.kv_shapes"
            )
        self._new[layer] = tuple(
            InputBuffers(self._stored(k[a:b], shape), self._stored(v[a:b], shape))
            for a, b in pairwise(self.source.starts)
        )
        return self.view(layer)

    def _stored(self, x: Tensor, shape: KVShape) -> tuple[Tensor, ...]:  # (S, G, D)
        if self._codec is None:
            return (x.transpose(0, 1),)
        parts = zip(self._codec.parts(shape.head_dim), self._codec.encode(x.detach()), strict=True)
        with lasting():
            return tuple(
                torch.empty(
                    (shape.num_kv_heads, len(x), part.width), dtype=part.dtype, device=x.device
                ).copy_(rows.transpose(0, 1))
                for part, rows in parts
            )

    def view(self, layer: int) -> CrossView:
        """What the step's sequences attend. Raises CacheError before `put`, where it is owed."""
        new = self._new[layer]
        if self.source is not None and new is None:
            raise CacheError(
                "this step brings an encoder input that the cross layer has not stored; append() "
                "its keys and values"
            )
        inputs = (*(new or ()), *(found.layers[layer] for found in self._held))
        codec = self._codec or find_codec(inputs[0].keys[0].dtype)
        return CrossView(self.span, codec, self._shapes[layer].head_dim, inputs, self._of)

    def commit(self, cross: CrossLayers) -> None:
        """Make what every layer has stored part of the cache."""
        if self.source is None:
            return
        layers = [new for new in self._new if new is not None]
        found = [
            EncodedInput(length, tuple(new[i] for new in layers))
            for i, length in enumerate(self.source.lengths)
        ]
        for slot, number in zip(self.slots, self.source.of, strict=True):
            if number is not None:
                cross.of[slot] = found[number]
