"""The tensors of a cache's file by name, and what says that they are the ones that were saved."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from kept.cache.reading import Readable
from kept.errors import CacheError, OptionError

VERSION = "3"


def buffers_of(cache: Readable) -> Iterator[tuple[str, int, Tensor]]:
    """Every buffer of keys and values with its name in a file and its layer's number."""
    for index, layer in enumerate(cache.layers):
        codec = cache.codec
        sides = (
            ("keys", codec.keys.parts(layer.head_dim), layer.keys),
            ("values", codec.values.parts(layer.stored_value_width), layer.values),
        )
        for which, parts, buffers in sides:
            for part, buffer in zip(parts, buffers, strict=True):
                yield f"layers.{index}.{which}.{part.name}", index, buffer


def held_name(index: int) -> str:
    """Of the tokens that an evicting layer holds."""
    return f"layers.{index}.held"


def queries_name(index: int) -> str:
    """Of the last queries that it keeps."""
    return f"layers.{index}.queries"


def received_name(index: int) -> str:
    """Of the attention that its tokens have received."""
    return f"layers.{index}.received"


def checksum_of(name: str, x: Tensor) -> str:
    """Of a tensor's name, dtype, shape and bytes."""
    found = hashlib.blake2b(f"{name} {x.dtype} {tuple(x.shape)} ".encode(), digest_size=32)
    found.update(x.contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def checksum_of_text(text: str) -> str:
    """Of a description."""
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()


def check_fingerprint(fingerprint: object) -> None:
    """Raise OptionError for what is no text."""
    if not isinstance(fingerprint, str):
        raise OptionError(
            f"the fingerprint is {fingerprint!r:.100}, a {type(fingerprint).__name__}; pass text"
        )


def damaged(file: Path, reason: str) -> CacheError:
    """What to raise for a file that is not what was saved."""
    return CacheError(f"{file} is damaged: {reason}; delete it, and save the cache again")
