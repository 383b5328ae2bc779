"""What an encoder made of one input: keys and values of every cross layer, written once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from kept.cache.layout import lasting
from kept.cache.place import Buffers, Place
from kept.cache.shape import KVShape
from kept.ops import Codec, InputBuffers, KVCodec, LentBuffers, encode_heads, lend_input


@dataclass(frozen=True, slots=True, eq=False)
class EncodedInput:
    """One encoder input. length: S. layers: (cross layers,); never written to again."""

    length: int
    layers: tuple[InputBuffers, ...]
    _lent: list[LentBuffers] = field(default_factory=list, init=False, repr=False)

    @property
    def num_bytes(self) -> int:
        """Bytes of its buffers."""
        return sum(x.nbytes for layer in self.layers for x in layer.keys + layer.values)

    def lent(self, codec: KVCodec) -> LentBuffers:
        """Its buffers as kernels take them; codec: that they are stored in. Made once."""
        if not self._lent:
            self._lent.append(lend_input(codec, self.layers))
        return self._lent[0]


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


def written(
    found: EncodedInput, codec: KVCodec, layers: Iterable[tuple[Tensor, Tensor]]
) -> EncodedInput:
    """An input, once the keys and values (S, G, D) of each layer are stored in it; mutates it."""
    for buffers, (keys, values) in zip(found.layers, layers, strict=True):
        write_input(buffers.keys, codec.keys, keys)
        write_input(buffers.values, codec.values, values)
    return found


def write_input(buffers: Buffers, codec: Codec, x: Tensor) -> None:
    """Store x (S, G, D) as a codec has it."""
    for buffer, part in zip(buffers, encode_heads(codec, x.detach()), strict=True):
        buffer.copy_(part.transpose(0, 1))
