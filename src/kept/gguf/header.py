"""The header of a GGUF file: metadata by key, and where each tensor lies.

    magic "GGUF", version    u32, u32
    counts                   u64 tensors, u64 metadata
    metadata                 key, type, value ...
    tensors                  name, u32 dimensions, u64 each (innermost first), u32 type, u64 offset
    data                     from the next multiple of `general.alignment` on

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. It is read here and not by the
package gguf, whose reader believes every count and length (docs/decisions/gguf.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from kept.errors import CheckpointNotFoundError, UnsupportedFormatError, WeightsError
from kept.gguf.block_types import BLOCK_TYPES, BlockType
from kept.gguf.values import Values
from kept.json_file import check_regular

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_KEYS, _MAX_TENSORS, _MAX_DIMENSIONS = 1 << 16, 1 << 18, 4
_MAX_NAME, _MAX_KEY = 1 << 10, 1 << 16  # bytes
_ALIGNMENT, _MAX_ALIGNMENT = "general.alignment", 1 << 20


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """A tensor as it lies in a file.

    shape: outermost dimension first, as torch counts. start: its first byte in `path`.
    """

    name: str
    path: Path
    shape: tuple[int, ...]
    type: BlockType
    start: int

    @property
    def num_bytes(self) -> int:
        """Of its blocks."""
        return math.prod(self.shape) // self.type.weights * self.type.num_bytes

    @property
    def row_bytes(self) -> int:
        """Of a row, the innermost dimension."""
        return self.shape[-1] // self.type.weights * self.type.num_bytes


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """What a file says of itself. tensors: by name, in the order of their data."""

    path: Path
    metadata: Mapping[str, Any] = field(repr=False)
    tensors: Mapping[str, GGUFTensor] = field(repr=False)


def read_header(path: Path) -> GGUFHeader:
    """Read and verify the header of `path`; no tensor data.

    Raises CheckpointNotFoundError where there is no such file, UnsupportedFormatError for a version
    or a type of blocks that kept does not read, WeightsError for a file whose header says what
    cannot be: a count, a length, a size or a place beyond the file.
    """
    try:
        check_regular(path, WeightsError)
        with path.open("rb") as file:
            return read_stream(file, path, path.stat().st_size)
    except FileNotFoundError as error:
        raise CheckpointNotFoundError(
            f"{path} is not there, or is a link to a file that is not; download it again."
        ) from error
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}.") from error


def read_stream(file: BinaryIO, path: Path, size: int) -> GGUFHeader:
    """Read and verify the header of a file that is open at its first byte.

    path: what it is called; size: its bytes. Raises as `read_header` for what it holds.
    """
    values = Values(file, path, size)
    _check_version(path, values)
    num_tensors = values.count("tensors", 24, _MAX_TENSORS)
    num_keys = values.count("keys of metadata", 13, _MAX_KEYS)
    metadata: dict[str, Any] = {}
    for _ in range(num_keys):
        key = values.text("a key", _MAX_KEY)
        if key in metadata:
            raise values.wrong(f"{key[:80]!r} is in its metadata twice")
        metadata[key] = values.value(key)
    found = [_read_tensor(path, values) for _ in range(num_tensors)]
    alignment = _alignment(metadata, values)
    data = -(-values.position // alignment) * alignment
    return GGUFHeader(path, metadata, _placed(found, data, alignment, values))


def _check_version(path: Path, values: Values) -> None:
    magic = values.take(4, "the magic number")
    if magic != _MAGIC:
        raise values.wrong(f"it begins with {magic!r}, and a GGUF file with {_MAGIC!r}")
    version = values.number("I")
    if version not in _VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS
        what = "a big-endian file" if swapped else f"version {version}"
        raise UnsupportedFormatError(
            f"{path} is GGUF, {what}, and kept reads little-endian files of versions "
            f"{' and '.join(map(str, _VERSIONS))}. Load another file of the model."
        )


def _read_tensor(path: Path, values: Values) -> GGUFTensor:
    name = values.text("a tensor's name", _MAX_NAME)
    num_dimensions = values.number("I")
    if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
        raise values.wrong(f"tensor {name!r} has {num_dimensions:,} dimensions")
    shape = tuple(values.number("Q") for _ in range(num_dimensions))[::-1]
    number, offset = values.number("I"), values.number("Q")
    type = BLOCK_TYPES.get(number)
    if type is None:
        raise UnsupportedFormatError(
            f"{path}: tensor {name!r} is stored in blocks of ggml's type {number}, which kept does "
            f"not read; it reads {', '.join(each.name for each in BLOCK_TYPES.values())}. Load "
            "another file of the model."
        )
    if 0 in shape or shape[-1] % type.weights:
        raise values.wrong(
            f"tensor {name!r} of shape {shape} does not consist of {type.name} blocks of "
            f"{type.weights}"
        )
    return GGUFTensor(name, path, shape, type, offset)


def _alignment(metadata: Mapping[str, Any], values: Values) -> int:
    found = metadata.get(_ALIGNMENT, 32)
    is_power = isinstance(found, int) and found > 0 and not found & (found - 1)
    if isinstance(found, bool) or not is_power or found > _MAX_ALIGNMENT:
        raise values.wrong(
            f"{_ALIGNMENT} is {str(found)[:80]}, and must be a power of 2 up to {_MAX_ALIGNMENT:,}"
        )
    return int(found)


def _placed(
    found: list[GGUFTensor], data: int, alignment: int, values: Values
) -> dict[str, GGUFTensor]:
    """The tensors with their first byte in the file, once it is sure that each lies in there."""
    size = values.position + values.left
    placed: dict[str, GGUFTensor] = {}
    for each in sorted(found, key=lambda tensor: tensor.start):
        start = data + each.start
        if each.name in placed:
            raise values.wrong(f"it holds two tensors named {each.name!r}")
        if each.start % alignment or start + each.num_bytes > size:
            where = "no multiple of the alignment" if each.start % alignment else "too far"
            raise values.wrong(
                f"tensor {each.name!r} takes {each.num_bytes:,} bytes from byte {start:,} on, "
                f"which is {where}"
            )
        placed[each.name] = GGUFTensor(each.name, each.path, each.shape, each.type, start)
    for before, after in pairwise(placed.values()):
        if before.start + before.num_bytes > after.start:
            raise values.wrong(f"tensors {before.name!r} and {after.name!r} overlap")
    return placed
