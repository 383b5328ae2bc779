"""Writing a cache to a file, which `files.py` reads and draws."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from os import PathLike
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from kept.cache.cross_file import input_buffers
from kept.cache.description import Description
from kept.cache.evicting_layer import EvictingLayer
from kept.cache.file_tensors import (
    VERSION,
    buffers_of,
    check_fingerprint,
    checksum_of,
    checksum_of_text,
    held_name,
    queries_name,
    received_name,
)
from kept.cache.layer import LayerCache
from kept.cache.layout import Layout
from kept.cache.reading import Readable
from kept.errors import CacheError, OptionError
from kept.ops import plain_torch
from kept.paths import read_path


@plain_torch()
def save_cache(cache: Readable, path: str | PathLike[str], *, fingerprint: str = "") -> None:
    """Write what a cache holds to a file; a step in progress is no part of it.

    fingerprint: what `load_cache` has to name as well, such as a model's name and revision. The
    file takes about the bytes of the tokens that are held, and as much memory while it is written;
    an encoder input is written once.
    Raises CacheError where it cannot be written; a file that was there before is then unchanged.
    Raises OptionError for what names no file, and a fingerprint that is no string.
    """
    file = _writable(path)
    check_fingerprint(fingerprint)
    tensors = {
        name: _gathered(buffer, cache, cache.layers[index], cache.layouts[index])
        for name, index, buffer in buffers_of(cache)
    }
    for index, layer in enumerate(cache.layers):
        if isinstance(layer, EvictingLayer):
            tensors[held_name(index)] = layer.held.cpu().clone()
            if layer.observer is not None:
                tensors[received_name(index)] = layer.observer.received.cpu().clone()
            if layer.observer is not None and layer.observer.queries is not None:
                tensors[queries_name(index)] = layer.observer.queries.cpu().clone()
    tensors |= {name: buffer.cpu() for name, buffer in input_buffers(cache)}
    text = Description.of(
        cache, fingerprint, {name: checksum_of(name, x) for name, x in tensors.items()}
    ).to_json()
    metadata = {"kept_cache": VERSION, "description": text, "checksum": checksum_of_text(text)}
    _write(file, tensors, metadata)


def _writable(path: object) -> Path:
    file = read_path(path, "the cache's file")
    if file.name in ("", "..") or os.path.isdir(file):
        raise OptionError(f"{str(file)!r} is a folder; name a file in it to save the cache to")
    if os.path.exists(file) and not os.path.isfile(file):  # which would be replaced by a file
        raise OptionError(f"{str(file)!r} is a device or a pipe; name a file to save the cache to")
    return file


def _gathered(
    buffer: Tensor, cache: Readable, layer: LayerCache, layout: Layout
) -> Tensor:  # (G, N, width)
    parts = [
        layer.taken(buffer, slot, layout.entries_from(slot, 0, length))
        for slot, length in enumerate(cache.lengths)
    ]
    return torch.cat(parts, dim=1).cpu()


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
