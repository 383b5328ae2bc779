"""The encoder inputs of one step: those it brings, and those its sequences go on with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from kept.batch import Source
from kept.cache.encoded_input import EncodedInput, make_input, write_input
from kept.cache.place import Buffers, Place
from kept.cache.shape import KVShape
from kept.errors import CacheError
from kept.ops import CrossView, InputBuffers, KVCodec, LentInputs, Span, find_kv_codec


class CrossStep:
    """The cross layers of one step, or of a pass without a cache (stored None: keys as they come).

    held: (B,) the input that each sequence goes on with, None: one that `source` brings. new: (I,)
    those, with room for all that layers store of them; empty without a cache. stored: the codec and
    the place of what a cache stores.
    """

    def __init__(
        self,
        starts: tuple[int, ...],
        slots: tuple[int, ...],
        held: Sequence[EncodedInput | None],
        source: Source | None,
        shapes: Sequence[KVShape],
        device: torch.device,
        stored: tuple[KVCodec, Place] | None = None,
    ) -> None:
        self.slots, self.source, self._shapes = slots, source, tuple(shapes)
        self._codec = None if stored is None else stored[0]
        fresh = () if source is None else source.lengths
        self.new: tuple[EncodedInput, ...] = ()
        if stored is not None:
            self.new = tuple(make_input(shapes, *stored, n) for n in fresh)
        self._held = tuple(dict.fromkeys(found for found in held if found is not None))
        self._stored: list[tuple[InputBuffers, ...] | None] = [None] * len(self._shapes)
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
        return {layer for layer, new in enumerate(self._stored) if new is not None}

    def check_done(self) -> None:
        """Raise CacheError unless every layer has what the source brings."""
        if self.source is not None and len(self.stored) < len(self._shapes):
            raise CacheError(
                f"{len(self.stored)} of {len(self._shapes)} cross layers have stored the encoder "
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
                "read() the one it holds"
            )
        expected = (self.source.starts[-1], shape.num_kv_heads, shape.head_dim)
        if k.shape != expected or v.shape != expected:
            raise CacheError(
                f"keys {tuple(k.shape)} and values {tuple(v.shape)} do not fit this cross layer, "
                f"which takes (input rows, heads, head) = {expected}; make the cache from "
                "model.kv_shapes"
            )
        parts = [(k[a:b], v[a:b]) for a, b in pairwise(self.source.starts)]
        if self._codec is None:
            found = [InputBuffers((k.transpose(0, 1),), (v.transpose(0, 1),)) for k, v in parts]
        else:
            found = [new.layers[layer] for new in self.new]
            for buffers, (keys, values) in zip(found, parts, strict=True):
                write_input(buffers.keys, self._codec.keys, keys)
                write_input(buffers.values, self._codec.values, values)
        self._stored[layer] = tuple(found)
        return self.view(layer)

    def lend(self) -> LentInputs:
        """All inputs of the step, for the caller to write those that it brings."""
        assert self._codec is not None
        if self.source is not None:
            layers = range(len(self._shapes))
            self._stored = [tuple(new.layers[layer] for new in self.new) for layer in layers]
        every = (*self.new, *self._held)
        buffers = [found.lent(self._codec) for found in every]
        lengths = [found.length for found in every]
        return LentInputs(buffers, lengths, self._of, len(self.new), self.view)

    def view(self, layer: int) -> CrossView:
        """What the step's sequences attend. Raises CacheError before `put`, where it is owed."""
        new = self._stored[layer]
        if self.source is not None and new is None:
            raise CacheError(
                "this step brings an encoder input that the cross layer has not stored; append() "
                "its keys and values"
            )
        inputs = (*(new or ()), *(found.layers[layer] for found in self._held))
        codec = self._codec or find_kv_codec(inputs[0].keys[0].dtype)
        return CrossView(self.span, codec, self._shapes[layer].head_dim, inputs, self._of)

    def buffers(self, layer: int) -> Buffers:
        """All buffers that the step reads or writes in a layer."""
        inputs = [found.layers[layer] for found in (*self.new, *self._held)]
        return tuple(x for found in inputs for x in found.keys + found.values)

    def beside(self, layers: Sequence[Buffers]) -> list[Buffers]:
        """The buffers of a cache's other layers, each with those of the cross layer behind it."""
        found = list(layers)
        for layer in range(len(self._shapes)):
            found[min(layer, len(found) - 1)] += self.buffers(layer)
        return found
