"""What a cache's file says of its own size, held against the file before anything is allocated."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

from kept.blocks import BLOCK, blocks_of
from kept.cache.description import Description
from kept.cache.evicting import EvictingLayout
from kept.cache.layout import Layout
from kept.cache.shape import KVShape
from kept.errors import CacheError
from kept.format import format_bytes
from kept.machine import describe_machine
from kept.ops import Part

Claim = tuple[str, tuple[int, ...]]  # a tensor's name, and the shape that it has to have


def check_claims(
    file: Path,
    handle: Any,
    found: Description,
    layouts: Sequence[Layout],
    *,
    in_memory: bool,
    in_blocks: Container[Layout],
) -> None:
    """Raise CacheError unless the file holds the tokens that its description claims, and memory
    the capacity it asks for.

    handle: the open safetensors file, of which headers are read. layouts: the distinct ones, as the
    description names them. in_memory: whether the cache's buffers are to lie in this machine's
    memory. in_blocks: which layouts are to lie in blocks.
    """
    per_layer = [layouts[index] for index in found.layout_of]
    own = [shape for shape in found.shapes if shape.shares is None and not shape.cross]
    for name, wanted in _claims(found, own, per_layer):
        shape = tuple(handle.get_slice(name).get_shape()) if name in found.checksums else None
        if shape != wanted:
            raise CacheError(
                f"{file} is damaged: tensor {name} is not the one that was saved: by the lengths "
                f"{_short(found.lengths)} it would be {wanted}, and it is {shape or 'not there'}; "
                "delete it, and save the cache again"
            )
    memory = describe_machine().total_memory
    asked = sum(
        _num_bytes(found, shape, layout, layout in in_blocks)
        for shape, layout in zip(own, per_layer, strict=True)
    )
    longest = max((layout.capacity for layout in layouts), default=0)
    if in_memory and memory is not None and asked > memory:
        raise CacheError(
            f"{file} describes {len(found.lengths)} slots of {longest:,} "
            f"tokens, which take {format_bytes(asked)}, and this machine has "
            f"{format_bytes(memory)}; load it where there is more, or in files (place=Offloaded)"
        )


def count_entries(layout: Layout, slot: int, length: int) -> int:
    """How many entries of a slot of so many tokens a file holds."""
    entries = layout.entries_from(slot, 0, length)
    return entries.stop - entries.start if isinstance(entries, slice) else len(entries)


def _claims(
    found: Description, own: Sequence[KVShape], layouts: Sequence[Layout]
) -> Iterator[Claim]:
    counts: dict[Layout, int] = {
        layout: sum(count_entries(layout, s, n) for s, n in enumerate(found.lengths))
        for layout in dict.fromkeys(layouts)
    }
    slots = len(found.lengths)
    for index, (shape, layout) in enumerate(zip(own, layouts, strict=True)):
        heads = shape.num_kv_heads
        for which, part in _parts(found, shape):
            name = f"layers.{index}.{which}.{part.name}"
            yield name, (heads, counts[layout], part.width)
        if isinstance(layout, EvictingLayout):
            yield f"layers.{index}.held", (slots, heads, layout.rule.budget)
    for number, length in enumerate(found.inputs):
        for layer, shape in enumerate(found.shapes):
            if shape.cross:
                for which, part in _parts(found, shape):
                    name = f"inputs.{number}.layers.{layer}.{which}.{part.name}"
                    yield name, (shape.num_kv_heads, length, part.width)


def _parts(found: Description, shape: KVShape) -> Iterator[tuple[str, Part]]:
    keys, values = found.codec.keys, found.codec.values
    yield from (("keys", part) for part in keys.parts(shape.head_dim))
    yield from (("values", part) for part in values.parts(shape.stored_value_width))


def _num_bytes(found: Description, shape: KVShape, layout: Layout, in_blocks: bool) -> int:
    entries = len(found.lengths) * layout.capacity
    if in_blocks:
        held = (count_entries(layout, slot, n) for slot, n in enumerate(found.lengths))
        entries = sum(blocks_of(count) * BLOCK for count in held)
    per_token = found.codec.num_bytes(shape.head_dim, shape.stored_value_width)
    return shape.num_kv_heads * entries * per_token


def _short(lengths: Sequence[int]) -> str:
    shown = ", ".join(map(str, lengths[:8]))
    return shown if len(lengths) <= 8 else f"{shown} and {len(lengths) - 8} more"
