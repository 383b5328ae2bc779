"""The cross layers of a cache: encoder inputs, written once, and which of them each slot attends.

    slots     0  1  2  3          inputs    A   x x x x x     for every cross layer keys and
    attend    A  A  B  A                    B   x x x         values (G, S, D), in their codecs

However many beams, samples or forks go on from an input, its keys and values lie in memory once:
operations on slots move the map alone. An input goes when the last slot that attends it does.
No kind of cache forgets any of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from kept.batch import Source
from kept.cache.checks import check_joins
from kept.cache.layout import lasting
from kept.cache.place import Buffers, Place
from kept.cache.shape import KVShape
from kept.errors import CacheError
from kept.ops import Codec, CrossView, InputBuffers, KVCodec, Span, encode_heads, find_kv_codec


@dataclass(frozen=True, slots=True, eq=False)
class EncodedInput:
    """One encoder input. length: S. layers: (cross layers,); never written to again."""

    length: int
    layers: tuple[InputBuffers, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of its buffers."""
        return sum(x.nbytes for layer in self.layers for x in layer.keys + layer.values)


def make_input(
    shapes: Sequence[KVShape], codec: KVCodec, place: Place, length: int
) -> EncodedInput:
    """An input of zeros, to be written once. Raises CacheFullError where there is no room."""

    def zeros(shape: KVShape) -> InputBuffers:
        keys, values = (
            tuple(
                place.zeros((shape.num_kv_heads, length, part.width), part.dtype)
                for part in of.parts(shape.head_dim)
            )
            for of in (codec.keys, codec.values)
        )
        return InputBuffers(keys, values)

    with lasting():
        return EncodedInput(length, tuple(map(zeros, shapes)))


def put(place: Place, x: Tensor) -> Tensor:
    """A copy of a buffer that lies in this place."""
    with lasting():
        return place.zeros(x.shape, x.dtype).copy_(x)


def moved(found: EncodedInput, place: Place) -> EncodedInput:
    """A copy of an input that lies in this place."""
    layers = (
        InputBuffers(*(tuple(put(place, x) for x in side) for side in (of.keys, of.values)))
        for of in found.layers
    )
    return EncodedInput(found.length, tuple(layers))


class CrossLayers:
    """Which input each slot of a cache attends.

    shapes: (cross layers,), none in the cache of a decoder. first: the number of the first of them
    among a model's layers.
    """

    def __init__(
        self,
        shapes: Sequence[KVShape],
        first: int,
        of: Sequence[EncodedInput | None],
        codec: KVCodec,
        place: Place,
        device: torch.device,
    ) -> None:
        self.shapes, self.first = tuple(shapes), first
        self.codec, self.place, self.device = codec, place, device
        # The inputs and, beside them, one that `put` has begun to store: replaced together.
        self._now: tuple[tuple[EncodedInput | None, ...], CrossStep | None] = (tuple(of), None)

    @property
    def of(self) -> tuple[EncodedInput | None, ...]:
        """(slots,) the input that each attends, None: none yet."""
        return self._now[0]

    @of.setter
    def of(self, of: Sequence[EncodedInput | None]) -> None:
        self._now = tuple(of), None

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

    @property
    def is_filling(self) -> bool:
        """Whether `put` has stored an input in some layers and not in others."""
        return self._now[1] is not None

    def reshaped(self, layer: int, shape: KVShape) -> CrossLayers:
        """With another shape of one of a model's layers, while there are no inputs."""
        index = layer - self.first
        shapes = (*self.shapes[:index], shape, *self.shapes[index + 1 :])
        return CrossLayers(shapes, self.first, self.of, self.codec, self.place, self.device)

    def attending(self, of: Sequence[EncodedInput | None]) -> CrossLayers:
        """The same layers, whose slots attend these inputs."""
        return CrossLayers(self.shapes, self.first, of, self.codec, self.place, self.device)

    def selected(self, indices: Sequence[int]) -> CrossLayers:
        """Slot i attends what slot indices[i] does."""
        return self.attending([self.of[i] for i in indices])

    def fork(self) -> CrossLayers:
        """An independent map to the same inputs."""
        return self.attending(self.of)

    def begin(
        self,
        starts: tuple[int, ...],
        slots: tuple[int, ...],
        lengths: Sequence[int],
        source: Source | None,
    ) -> CrossStep | None:
        """A step of sequences in `slots`; None without cross layers. lengths: (B,) tokens that each
        holds before it.

        Raises CacheError for a sequence without an input, or one that brings a new input although
        its tokens have attended another, and CacheFullError where there is no room for one.
        """
        if not self.shapes:
            if source is not None:
                raise CacheError(
                    "this batch brings an encoder input, and the cache has no cross layers to hold "
                    "it; make the cache from model.kv_shapes"
                )
            return None
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
        return CrossStep(starts, slots, held, source, self.shapes, self.device, self)

    def committed(self, step: CrossStep | None) -> CrossLayers:
        """The slots of a step attend what it brought and every layer has stored."""
        return self if step is None or step.source is None else self.attending(self._after(step))

    def _after(self, step: CrossStep) -> tuple[EncodedInput | None, ...]:
        assert step.source is not None
        of = list(self.of)
        for slot, number in zip(step.slots, step.source.of, strict=True):
            if number is not None:
                of[slot] = step.new[number]
        return tuple(of)

    def put(self, k: Tensor, v: Tensor, layer: int, lengths: Sequence[int]) -> CrossView:
        """`Cache.update` of one layer: an input (S, G, D) for each slot, laid end to end.

        lengths: (slots,) tokens that each holds. The inputs count once all layers have them.
        """
        count, rows, step = len(self.of), len(k), self._now[1]
        if step is None:
            slots, ends = tuple(range(count)), range(0, rows + 1, rows // count)
            source = Source(torch.zeros(rows, dtype=torch.int64, device="cpu"), tuple(ends), slots)
            step = self.begin((0,) * (count + 1), slots, lengths, source)
            assert step is not None
            self._now = self.of, step
        done, every = {self.first + i for i in step.stored}, range(len(self.shapes))
        check_joins(layer, rows // count, done, [self.first + i for i in every], step.span.width)
        view = step.put(layer - self.first, k, v)
        self.place.leave(step.buffers(layer - self.first))
        if len(step.stored) == len(self.shapes):
            self._now = self._after(step), None
        return view

    def abandon(self) -> None:
        """Drop what `put` has begun."""
        self._now = self.of, None

    def read(self, layer: int, begin: int) -> list[tuple[Tensor, Tensor]]:
        """Keys and values (G, S - begin, D) of one of a model's layers, per slot, decoded."""
        shape, codec = self.shapes[layer - self.first], self.codec
        none = torch.zeros(
            shape.num_kv_heads, 0, shape.head_dim, dtype=codec.dtype, device=self.device
        )
        found = []
        for held in self.of:
            if held is None:
                found.append((none, none))
                continue
            buffers = held.layers[layer - self.first]
            keys = codec.keys.decode([x[:, begin:] for x in buffers.keys], shape.head_dim)
            values = codec.values.decode([x[:, begin:] for x in buffers.values], shape.head_dim)
            found.append((keys.to(codec.dtype), values.to(codec.dtype)))
        return found

    def tokens(self, layer: int) -> list[Tensor]:
        """(G, S) int64 per slot: all tokens of its input, for each head of a model's layer."""
        heads = self.shapes[layer - self.first].num_kv_heads
        tokens = (torch.arange(length, dtype=torch.int64, device="cpu") for length in self.lengths)
        return [each.expand(heads, -1).clone() for each in tokens]


class CrossStep:
    """The cross layers of one step, or of one pass without a cache (cross None: keys as they come).

    held: (B,) the input that each sequence goes on with, None: one that `source` brings. new: (I,)
    those, with room for all that layers store of them; empty without a cache.
    """

    def __init__(
        self,
        starts: tuple[int, ...],
        slots: tuple[int, ...],
        held: Sequence[EncodedInput | None],
        source: Source | None,
        shapes: Sequence[KVShape],
        device: torch.device,
        cross: CrossLayers | None = None,
    ) -> None:
        self.slots, self.source, self._shapes = slots, source, tuple(shapes)
        self._codec = None if cross is None else cross.codec
        fresh = () if source is None else source.lengths
        self.new: tuple[EncodedInput, ...] = ()
        if cross is not None:
            self.new = tuple(make_input(shapes, cross.codec, cross.place, n) for n in fresh)
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
                _write(buffers.keys, self._codec.keys, keys)
                _write(buffers.values, self._codec.values, values)
        self._stored[layer] = tuple(found)
        return self.view(layer)

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


def _write(buffers: Buffers, codec: Codec, x: Tensor) -> None:  # x: (S, G, D)
    for buffer, part in zip(buffers, encode_heads(codec, x.detach()), strict=True):
        buffer.copy_(part.transpose(0, 1))
