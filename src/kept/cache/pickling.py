"""A cache in a pickle: the bytes of the file that `Cache.save` writes.

A process that was sent a cache reads it as it would read that file, every checksum included. What
else a pickle may run as it is read is the business of whoever unpickles it: keep what is to last in
a file of `save`.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kept.cache.cache import Cache
from kept.cache.contiguous import ContiguousLayout
from kept.cache.files import load_cache
from kept.cache.saving import save_cache
from kept.cache.shape import KVShape

_NAME = "cache.safetensors"


def written(cache: Cache) -> bytes:
    """What `save` writes of a cache; tokens of a step that is not complete are left out."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / _NAME
        save_cache(cache.fork(), path)
        return path.read_bytes()


def read(data: bytes, shapes: tuple[KVShape, ...], device: str, in_blocks: bool = True) -> Cache:
    """The cache that `written` wrote, in the device's memory. Raises CacheError as `load_cache`."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / _NAME
        path.write_bytes(data)
        return load_cache(path, shapes, device=device, in_blocks=in_blocks)


def reduced(cache: Cache) -> tuple[Callable[..., Cache], tuple[Any, ...]]:
    """What `pickle` makes of a cache: how it is read, and what from."""
    in_runs = any(isinstance(x, ContiguousLayout) and not x.fixed for x in cache.layouts)
    in_blocks = not in_runs or cache.place.budget is not None
    return read, (written(cache), cache.shapes, str(cache.device), in_blocks)


copyreg.pickle(Cache, reduced)
