"""Whether a cache is one of a model's: kernels write where this model's layers would be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kept.cache import Cache, KVShape
from kept.errors import CacheError


class OwnLayers:
    """What the layers of a model store."""

    def __init__(self, shapes: Sequence[KVShape]) -> None:
        self._sizes = _sizes_of(shapes)
        self._fitting: Sequence[KVShape] | None = None  # of the last cache: looked at in each step

    def check(self, cache: Cache | None) -> None:
        """Raise CacheError for a cache of another model.

        Its windows may differ, as they say only how much is kept.
        """
        if cache is None or cache.shapes is self._fitting:
            return
        held, own = _sizes_of(cache.shapes), self._sizes
        if held == own:
            self._fitting = cache.shapes
            return
        if len(held) != len(own):
            found = f"{_counted(held)}, and this model has {_counted(own)}"
        else:
            layer = next(i for i, shape in enumerate(held) if shape != own[i])
            theirs, ours = _spelled(held[layer]), _spelled(own[layer])
            found = f"{theirs} in layer {layer}, and this model has {ours}"
        raise CacheError(f"the cache is one of {found}; make it with make_cache(model.kv_shapes)")


def _sizes_of(shapes: Sequence[KVShape]) -> list[KVShape]:
    """Without what says only how much of them is kept."""
    return [replace(shape, window=None, shares=None) for shape in shapes]


def _counted(layers: Sequence[KVShape]) -> str:
    crossing = sum(shape.cross for shape in layers)
    own = f"{len(layers) - crossing} layers"
    return f"{own} and {crossing} cross layers" if crossing else own


def _spelled(shape: KVShape) -> str:
    values = "" if shape.value_dim is None else f" in keys and {shape.value_dim} in values"
    values += ", which lie in them" if shape.values_in_keys else ""
    cross = " of an encoder input" if shape.cross else ""
    return f"{shape.num_kv_heads} heads of {shape.head_dim} numbers{values}{cross}"
