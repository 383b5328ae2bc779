"""A cache as a file: safetensors with a description, and a checksum for each part of it.

    metadata    kept_cache    the version of this format
                description   JSON: kind, codecs, shapes, lengths, layouts, fingerprint, checksums
                checksum      of the description
    tensors     layers.0.keys.codes      (G, N, width) the tokens of all slots, one after the other,
                layers.0.keys.scales     in the order of their entries; no spare capacity
                ...
                layers.0.held            (slots, G, budget) the tokens of an evicting layer
                layers.0.queries         what an evicting layer that looks at queries keeps of
                layers.0.received        them, see `observer.py`
                inputs.0.layers.2.keys.codes   (G, S, width) an encoder input in a cross layer

What is read is what was written, bit for bit, or an error. Files are written beside their place
and moved there once they are on disk, so that a crash leaves the old one or the new one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kept.cache.cache import Cache
from kept.cache.cross_file import read_inputs
from kept.cache.description import Description, read_layout
from kept.cache.evicting import EvictingLayout
from kept.cache.evicting_layer import EvictingLayer
from kept.cache.eviction_file import restore_held
from kept.cache.file_claims import check_claims, count_entries
from kept.cache.file_layouts import Lying, check_windows, in_blocks, laid_in_blocks
from kept.cache.file_tensors import (
    VERSION,
    buffers_of,
    check_fingerprint,
    checksum_of,
    checksum_of_text,
    damaged,
    held_name,
    queries_name,
    received_name,
)
from kept.cache.layer import LayerCache
from kept.cache.layout import Layout
from kept.cache.make import check_place, check_shapes, read_device
from kept.cache.place import Place
from kept.cache.shape import KVShape
from kept.errors import CacheError
from kept.ops import plain_torch
from kept.paths import read_path


@plain_torch()
def load_cache(
    path: str | PathLike[str],
    shapes: Sequence[KVShape],
    *,
    fingerprint: str = "",
    device: torch.device | str = "cpu",
    place: Place | None = None,
    pool_bytes: int | None = None,
    in_blocks: bool = True,
) -> Cache:
    """The cache that `Cache.save` wrote; it goes on with the very same bits.

    shapes: (L,) what the model's layers store, `model.kv_shapes`. fingerprint: as it was saved.
    place: where its buffers lie from now on, by default in the device's memory. pool_bytes,
    in_blocks: as `make_cache` takes them, for a dynamic or sliding cache in memory.
    Raises CacheError for a file that is not there, cut short or changed, that another version of
    kept wrote, or that belongs to another model or fingerprint, OptionError for what is no path or
    are no shapes, or a place that will not do.
    """
    check_shapes(shapes)
    check_fingerprint(fingerprint)
    file, where = read_path(path, "the cache's file"), read_device(device)
    with _opened(file) as handle:
        options = Lying(place, pool_bytes, in_blocks)
        return _read(file, handle, tuple(shapes), fingerprint, where, options)


def saved_shapes(path: str | PathLike[str]) -> tuple[KVShape, ...]:
    """(L,) what the layers of a saved cache store. Raises CacheError as `load_cache` does."""
    file = read_path(path, "the cache's file")
    with _opened(file) as handle:
        return _described(file, handle).shapes


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    if not os.path.isfile(file):
        raise CacheError(f"{file} is not a file; give one that a cache was saved to")
    try:
        with safe_open(str(file), framework="pt") as handle:
            yield handle
    except SafetensorError as error:
        raise damaged(file, str(error)) from error
    except OSError as error:
        raise CacheError(f"{file} cannot be read: {error}") from error


def _described(file: Path, handle: Any) -> Description:
    metadata = handle.metadata() or {}
    version = metadata.get("kept_cache")
    if version is None:
        raise CacheError(f"{file} holds no cache of kept; give a file that a cache was saved to")
    if version != VERSION:
        raise CacheError(
            f"{file} is a cache file of version {version}, and this kept reads version {VERSION}; "
            "make the cache anew and save it"
        )
    text = metadata.get("description", "")
    if metadata.get("checksum") != checksum_of_text(text):
        raise damaged(file, "its description does not match its checksum")
    return Description.read(file, text)


def _read(
    file: Path,
    handle: Any,
    shapes: tuple[KVShape, ...],
    fingerprint: str,
    device: torch.device,
    options: Lying,
) -> Cache:
    place = options.place
    found = _described(file, handle)
    found.check(file, shapes, fingerprint)
    if set(handle.keys()) != set(found.checksums):
        raise damaged(file, "it does not hold the tensors that it describes")

    def tensor(name: str, dtype: torch.dtype, *shape: int | None) -> Tensor:
        part = handle.get_slice(name)
        sizes = tuple(part.get_shape())
        fits = len(sizes) == len(shape)
        if fits and all(n in (None, m) for n, m in zip(shape, sizes, strict=True)):
            x: Tensor = handle.get_tensor(name).clone()  # what is verified must be what is used
            if x.dtype == dtype and checksum_of(name, x) == found.checksums[name]:
                return x
        raise damaged(file, f"tensor {name} is not the one that was saved")

    num_slots, lengths = len(found.lengths), found.lengths
    layouts = [read_layout(file, fields, lengths) for fields in found.layouts]
    check_place(place, device, evicts=any(isinstance(x, EvictingLayout) for x in layouts))
    lying = in_blocks(found, layouts, options)
    in_memory = place is None and device.type == "cpu"
    check_claims(file, handle, found, layouts, in_memory=in_memory, in_blocks=lying)
    check_windows(file, found, layouts, options)
    layouts = laid_in_blocks(found, layouts, lying, device, options)
    per_layer = [layouts[index] for index in found.layout_of]
    cache = Cache(shapes, per_layer, found.codec, device, found.kind, lengths, place)
    counts = {
        layout: sum(count_entries(layout, s, n) for s, n in enumerate(lengths))
        for layout in layouts
    }
    for name, index, buffer in buffers_of(cache):
        _, heads, _, width = buffer.shape
        rows = tensor(name, buffer.dtype, heads, counts[per_layer[index]], width)
        _scatter(rows, buffer, cache, cache.layers[index], cache.layouts[index])
    for index, layer in enumerate(cache.layers):
        if isinstance(layer, EvictingLayer):
            held = tensor(held_name(index), torch.int64, *layer.held.shape)
            restore_held(index, layer, held, lengths)
            observer = layer.observer
            if observer is not None:
                received = tensor(received_name(index), torch.float32, *observer.received.shape)
                queries = None
                if any(lengths) or queries_name(index) in found.checksums:
                    size = num_slots, None, observer.grain, layer.head_dim
                    queries = tensor(queries_name(index), observer.dtype, *size)
                observer.restore(queries, received)
    read_inputs(cache, found.inputs, found.input_of, tensor)
    return cache


def _scatter(rows: Tensor, buffer: Tensor, cache: Cache, layer: LayerCache, layout: Layout) -> None:
    begin = 0
    for slot, length in enumerate(cache.lengths):
        end = begin + count_entries(layout, slot, length)
        entries = layout.entries_from(slot, 0, length)
        layer.put(buffer, slot, entries, rows[:, begin:end].to(buffer.device))
        begin = end
