"""Whether a cache is one of a model's: kernels write where this model's layers would be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kept.cache import Cache, KVShape
from kept.errors import CacheError


def sizes_of(shapes: Sequence[KVShape]) -> list[KVShape]:
    """What layers store, without what says only how much of it is kept."""
    return [replace(shape, window=None, shares=None) for shape in shapes]


def check_layers(cache: Cache | None, layers: list[KVShape]) -> None:
    """Raise CacheError for a cache of another model. layers: `sizes_of` this one's.

    Its windows may differ, as they say only how much is kept.
    """
    if cache is None:
        return
    held = sizes_of(cache.shapes)
    if held == layers:
        return
    if len(held) != len(layers):
        found = f"{_counted(held)}, and this model has {_counted(layers)}"
    else:
        layer = next(i for i, shape in enumerate(held) if shape != layers[i])
        theirs, own = _spelled(held[layer]), _spelled(layers[layer])
        found = f"{theirs} in layer {layer}, and this model has {own}"
    raise CacheError(f"the cache is one of {found}; make it with make_cache(model.kv_shapes)")


def _counted(layers: Sequence[KVShape]) -> str:
    crossing = sum(shape.cross for shape in layers)
    own = f"{len(layers) - crossing} layers"
    return f"{own} and {crossing} cross layers" if crossing else own


def _spelled(shape: KVShape) -> str:
    values = "" if shape.value_dim is None else f" in keys and {shape.value_dim} in values"
    cross = " of an encoder input" if shape.cross else ""
    return f"{shape.num_kv_heads} heads of {shape.head_dim} numbers{values}{cross}"
