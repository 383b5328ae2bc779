"""Encoder inputs in a file: the buffers by name, and which slot attends which of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from kept.cache.cache import Cache
from kept.cache.cross import make_input


def input_buffers(cache: Cache) -> Iterator[tuple[str, Tensor]]:
    """Every buffer of each encoder input with its name in a file."""
    cross, codec = cache.cross, cache.codec
    for index, found in enumerate(cross.inputs):
        for layer, (shape, buffers) in enumerate(zip(cross.shapes, found.layers, strict=True)):
            sides = ("keys", codec.keys, buffers.keys), ("values", codec.values, buffers.values)
            for which, of, parts in sides:
                for part, buffer in zip(of.parts(shape.head_dim), parts, strict=True):
                    yield f"inputs.{index}.layers.{cross.first + layer}.{which}.{part.name}", buffer


def give_inputs(cache: Cache, lengths: Sequence[int], of: Sequence[int]) -> None:
    """Let slots attend inputs of zeros, which the caller then fills: of each slot the number, -1
    for none; `of` is empty for a cache without cross layers."""
    cross = cache.cross
    made = [make_input(cross.shapes, cross.codec, cross.place, length) for length in lengths]
    if of:
        cross.of = [None if number < 0 else made[number] for number in of]
