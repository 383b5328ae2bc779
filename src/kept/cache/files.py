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

import hashlib
import os
import secrets
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kept.cache.block_groups import block_layouts
from kept.cache.cache import Cache
from kept.cache.contiguous import ContiguousLayout
from kept.cache.cross_file import input_buffers, read_inputs
from kept.cache.description import Description, read_layout
from kept.cache.evicting import EvictingLayout
from kept.cache.evicting_layer import EvictingLayer
from kept.cache.eviction_file import restore_held
from kept.cache.file_claims import check_claims, count_entries
from kept.cache.layer import LayerCache
from kept.cache.layout import Layout
from kept.cache.make import check_place, check_shapes, read_device
from kept.cache.place import Place
from kept.cache.saved_window import SavedWindow
from kept.cache.shape import KVShape
from kept.errors import CacheError, OptionError
from kept.ops import plain_torch
from kept.paths import read_path

VERSION = "3"


@plain_torch()
def save_cache(cache: Cache, path: str | PathLike[str], *, fingerprint: str = "") -> None:
    """Write what a cache holds to a file; a step in progress is no part of it.

    fingerprint: what `load_cache` has to name as well, such as a model's name and revision. The
    file takes about the bytes of the tokens that are held, and as much memory while it is written;
    an encoder input is written once.
    Raises CacheError where it cannot be written; a file that was there before is then unchanged.
    Raises OptionError for what names no file, and a fingerprint that is no string.
    """
    file = _writable(path)
    _check_fingerprint(fingerprint)
    tensors = {
        name: _gathered(buffer, cache, cache.layers[index], cache.layouts[index])
        for name, index, buffer in _buffers(cache)
    }
    for index, layer in enumerate(cache.layers):
        if isinstance(layer, EvictingLayer):
            tensors[_tokens(index)] = layer.held.cpu().clone()
            if layer.observer is not None:
                tensors[_received(index)] = layer.observer.received.cpu().clone()
            if layer.observer is not None and layer.observer.queries is not None:
                tensors[_queries(index)] = layer.observer.queries.cpu().clone()
    tensors |= {name: buffer.cpu() for name, buffer in input_buffers(cache)}
    text = Description.of(
        cache, fingerprint, {name: _checksum(name, x) for name, x in tensors.items()}
    ).to_json()
    metadata = {"kept_cache": VERSION, "description": text, "checksum": _checksum_of_text(text)}
    _write(file, tensors, metadata)


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
    _check_fingerprint(fingerprint)
    file, where = read_path(path, "the cache's file"), read_device(device)
    with _opened(file) as handle:
        options = _Options(place, pool_bytes, in_blocks)
        return _read(file, handle, tuple(shapes), fingerprint, where, options)


@dataclass(frozen=True, slots=True)
class _Options:
    """Where what is read is to lie."""

    place: Place | None
    pool_bytes: int | None
    in_blocks: bool

    @property
    def files(self) -> Place | None:
        """Where it lies if that is not memory."""
        return None if self.place is None or self.place.budget is None else self.place

    @property
    def whole_in_blocks(self) -> bool:
        """Whether layers that let no token go lie in blocks, if their kind may."""
        return self.in_blocks and self.files is None


def _lie_in_blocks(found: Description, layouts: Sequence[Layout], options: _Options) -> set[Layout]:
    """Those of the layouts of a file that are to lie in blocks: of layers with a window, and, in
    memory, of those that let no token go."""
    may = options.whole_in_blocks and found.kind in ("dynamic", "sliding")
    whole = (x for x in layouts if isinstance(x, ContiguousLayout) and not x.fixed)
    return {x for x in whole if may or isinstance(x, SavedWindow)}


def _in_blocks(
    found: Description,
    layouts: Sequence[Layout],
    lying: Container[Layout],
    device: torch.device,
    options: _Options,
) -> list[Layout]:
    """Layouts in place of those that a file describes, some of which are to lie in blocks."""
    own = [shape for shape in found.shapes if shape.shares is None and not shape.cross]
    saved = [(layouts[i], shape) for i, shape in zip(found.layout_of, own, strict=True)]
    saved = [(layout, shape) for layout, shape in saved if layout in lying]
    windows = {x: x.window if isinstance(x, SavedWindow) else None for x, _ in saved}
    sinks = max((x.sinks for x in windows if isinstance(x, SavedWindow)), default=0)
    empty = block_layouts(
        [shape for _, shape in saved],
        [windows[layout] for layout, _ in saved],
        len(found.lengths),
        found.codec,
        device,
        options.pool_bytes,
        sinks,
        options.files,
    )
    made: dict[Layout, Layout] = {
        layout: of.filled(found.lengths, layout.gone if isinstance(layout, SavedWindow) else None)
        for layout, of in {x: of for (x, _), of in zip(saved, empty, strict=True)}.items()
    }
    return [made.get(layout, layout) for layout in layouts]


def _check_windows(
    file: Path, found: Description, layouts: Sequence[Layout], options: _Options
) -> None:
    """Raise CacheError where layers attend no window that such a cache gives them, or those of a
    dynamic one, whose windows have passed tokens, come to lie in runs."""
    own = [shape for shape in found.shapes if shape.shares is None and not shape.cross]
    runs = found.kind == "dynamic" and not options.whole_in_blocks
    for shape, index in zip(own, found.layout_of, strict=True):
        layout = layouts[index]
        window = layout.window if isinstance(layout, SavedWindow) else None
        if not _may_attend(found.kind, shape.window, window):
            raise _damaged(file, f"it keeps a window of {window} where a layer has {shape.window}")
        if runs and window is not None:
            raise CacheError(
                f"{file} holds a cache in blocks, whose layers with a window keep that alone, so "
                "it cannot lie in runs or in files; leave place and in_blocks out, or save a cache "
                "that was made with keeps_all=True"
            )


def _may_attend(kind: str, own: int | None, window: int | None) -> bool:
    """Whether a cache of this kind can keep `window` tokens for a layer whose own window is
    another."""
    if kind == "sliding":
        return own is None or (window is not None and window <= own)
    return window == own or (window is None and kind != "evicting")


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
        raise _damaged(file, str(error)) from error
    except OSError as error:
        raise CacheError(f"{file} cannot be read: {error}") from error


def _writable(path: object) -> Path:
    file = read_path(path, "the cache's file")
    if file.name in ("", "..") or os.path.isdir(file):
        raise OptionError(f"{str(file)!r} is a folder; name a file in it to save the cache to")
    if os.path.exists(file) and not os.path.isfile(file):  # which would be replaced by a file
        raise OptionError(f"{str(file)!r} is a device or a pipe; name a file to save the cache to")
    return file


def _check_fingerprint(fingerprint: object) -> None:
    if not isinstance(fingerprint, str):
        raise OptionError(
            f"the fingerprint is {fingerprint!r:.100}, a {type(fingerprint).__name__}; pass text"
        )


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
    if metadata.get("checksum") != _checksum_of_text(text):
        raise _damaged(file, "its description does not match its checksum")
    return Description.read(file, text)


def _read(
    file: Path,
    handle: Any,
    shapes: tuple[KVShape, ...],
    fingerprint: str,
    device: torch.device,
    options: _Options,
) -> Cache:
    place = options.place
    found = _described(file, handle)
    found.check(file, shapes, fingerprint)
    if set(handle.keys()) != set(found.checksums):
        raise _damaged(file, "it does not hold the tensors that it describes")

    def tensor(name: str, dtype: torch.dtype, *shape: int | None) -> Tensor:
        part = handle.get_slice(name)
        sizes = tuple(part.get_shape())
        fits = len(sizes) == len(shape)
        if fits and all(n in (None, m) for n, m in zip(shape, sizes, strict=True)):
            x: Tensor = handle.get_tensor(name).clone()  # what is verified must be what is used
            if x.dtype == dtype and _checksum(name, x) == found.checksums[name]:
                return x
        raise _damaged(file, f"tensor {name} is not the one that was saved")

    num_slots, lengths = len(found.lengths), found.lengths
    layouts = [read_layout(file, fields, lengths) for fields in found.layouts]
    check_place(place, device, evicts=any(isinstance(x, EvictingLayout) for x in layouts))
    lying = _lie_in_blocks(found, layouts, options)
    in_memory = place is None and device.type == "cpu"
    check_claims(file, handle, found, layouts, in_memory=in_memory, in_blocks=lying)
    _check_windows(file, found, layouts, options)
    layouts = _in_blocks(found, layouts, lying, device, options)
    per_layer = [layouts[index] for index in found.layout_of]
    cache = Cache(shapes, per_layer, found.codec, device, found.kind, lengths, place)
    counts = {
        layout: sum(count_entries(layout, s, n) for s, n in enumerate(lengths))
        for layout in layouts
    }
    for name, index, buffer in _buffers(cache):
        _, heads, _, width = buffer.shape
        rows = tensor(name, buffer.dtype, heads, counts[per_layer[index]], width)
        _scatter(rows, buffer, cache, cache.layers[index], cache.layouts[index])
    for index, layer in enumerate(cache.layers):
        if isinstance(layer, EvictingLayer):
            held = tensor(_tokens(index), torch.int64, *layer.held.shape)
            restore_held(index, layer, held, lengths)
            observer = layer.observer
            if observer is not None:
                received = tensor(_received(index), torch.float32, *observer.received.shape)
                queries = None
                if any(lengths) or _queries(index) in found.checksums:
                    size = num_slots, None, observer.grain, layer.head_dim
                    queries = tensor(_queries(index), observer.dtype, *size)
                observer.restore(queries, received)
    read_inputs(cache, found.inputs, found.input_of, tensor)
    return cache


def _buffers(cache: Cache) -> Iterator[tuple[str, int, Tensor]]:
    """Every buffer of keys and values with its name in a file and its layer's number."""
    for index, layer in enumerate(cache.layers):
        codec = cache.codec
        sides = (
            ("keys", codec.keys.parts(layer.head_dim), layer.keys),
            ("values", codec.values.parts(layer.value_dim), layer.values),
        )
        for which, parts, buffers in sides:
            for part, buffer in zip(parts, buffers, strict=True):
                yield f"layers.{index}.{which}.{part.name}", index, buffer


def _tokens(index: int) -> str:
    return f"layers.{index}.held"


def _queries(index: int) -> str:
    return f"layers.{index}.queries"


def _received(index: int) -> str:
    return f"layers.{index}.received"


def _gathered(
    buffer: Tensor, cache: Cache, layer: LayerCache, layout: Layout
) -> Tensor:  # (G, N, width)
    parts = [
        layer.taken(buffer, slot, layout.entries_from(slot, 0, length))
        for slot, length in enumerate(cache.lengths)
    ]
    return torch.cat(parts, dim=1).cpu()


def _scatter(rows: Tensor, buffer: Tensor, cache: Cache, layer: LayerCache, layout: Layout) -> None:
    begin = 0
    for slot, length in enumerate(cache.lengths):
        end = begin + count_entries(layout, slot, length)
        entries = layout.entries_from(slot, 0, length)
        layer.put(buffer, slot, entries, rows[:, begin:end].to(buffer.device))
        begin = end


def _checksum(name: str, x: Tensor) -> str:
    """Of a tensor's name, dtype, shape and bytes."""
    found = hashlib.blake2b(f"{name} {x.dtype} {tuple(x.shape)} ".encode(), digest_size=32)
    found.update(x.contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _checksum_of_text(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        save_file(tensors, temporary, metadata)
        _flush(temporary)
        os.replace(temporary, path)
        if os.name == "posix":  # elsewhere a folder cannot be opened
            _flush(path.parent)
    except (SafetensorError, OSError) as error:
        raise CacheError(
            f"the cache cannot be saved to {path}: {error}; give a file in a folder that exists, "
            "can be written to and has room"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _flush(path: Path) -> None:
    """Wait until a file or folder is on disk."""
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _damaged(file: Path, reason: str) -> CacheError:
    return CacheError(f"{file} is damaged: {reason}; delete it, and save the cache again")
