"""Encoder inputs in a file: their buffers by name, and which slot attends which of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from kept.cache.encoded_input import EncodedInput, put
from kept.cache.place import Buffers
from kept.cache.reading import Readable
from kept.ops import InputBuffers, Part

# Of a tensor's name, dtype and shape: what the file holds, verified.
ReadTensor = Callable[[str, torch.dtype, int, int, int], Tensor]


def input_buffers(cache: Readable) -> Iterator[tuple[str, Tensor]]:
    """Every buffer of each encoder input with its name in a file."""
    for index, found in enumerate(cache.cross.inputs):
        for layer, buffers in enumerate(found.layers):
            for which, held in (("keys", buffers.keys), ("values", buffers.values)):
                for part, buffer in zip(_parts(cache, layer, which), held, strict=True):
                    yield _name(cache, index, layer, which, part), buffer


def read_inputs(
    cache: Readable, lengths: Sequence[int], of: Sequence[int], tensor: ReadTensor
) -> None:
    """Let slots attend the inputs of a file. lengths: tokens of each. of: (slots,) the number of
    the one that each attends, -1 for none; empty for a cache without cross layers."""

    def read(index: int, layer: int, which: str) -> Buffers:
        heads, length = cache.cross.shapes[layer].num_kv_heads, lengths[index]
        return tuple(
            put(
                cache.place,
                tensor(
                    _name(cache, index, layer, which, part), part.dtype, heads, length, part.width
                ),
            )
            for part in _parts(cache, layer, which)
        )

    def make(index: int, length: int) -> EncodedInput:
        layers = range(len(cache.cross.shapes))
        found = [InputBuffers(read(index, i, "keys"), read(index, i, "values")) for i in layers]
        return EncodedInput(length, tuple(found))

    made = [make(index, length) for index, length in enumerate(lengths)]
    if of:
        cache.cross.of = [None if number < 0 else made[number] for number in of]


def _parts(cache: Readable, layer: int, which: str) -> tuple[Part, ...]:
    of = cache.codec.keys if which == "keys" else cache.codec.values
    return of.parts(cache.cross.shapes[layer].head_dim)


def _name(cache: Readable, index: int, layer: int, which: str, part: Part) -> str:
    return f"inputs.{index}.layers.{cache.cross.first + layer}.{which}.{part.name}"
