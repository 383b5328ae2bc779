"""The cross layers of a cache: encoder inputs, written once, and which of them each slot attends.

    slots     0  1  2  3          inputs    A   x x x x x     for every cross layer keys and
    attend    A  A  B  A                    B   x x x         values (G, S, D), in their codecs

However many beams, samples or forks go on from an input, its keys and values lie in memory once:
operations on slots move the map alone. An input goes when the last slot that attends it does.
No kind of cache forgets any of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kept.batch import Source
from kept.cache.checks import check_joins
from kept.cache.cross_step import CrossStep
from kept.cache.encoded_input import EncodedInput, make_input, written
from kept.cache.place import Place
from kept.cache.shape import KVShape
from kept.errors import CacheError
from kept.ops import CrossView, KVCodec


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
        stored = self.codec, self.place
        return CrossStep(starts, slots, held, source, self.shapes, self.device, stored)

    def room(self, length: int) -> EncodedInput:
        """An input of so many tokens, to be written once. Raises CacheFullError where there is no
        room."""
        return make_input(self.shapes, self.codec, self.place, length)

    def encoded(self, length: int, layers: Sequence[tuple[Tensor, Tensor]]) -> EncodedInput:
        """An input of so many tokens, of which an encoder made these keys and values (S, G, D) for
        each cross layer; no slot attends it yet. Raises CacheFullError where there is no room."""
        return written(self.room(length), self.codec, layers)

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
