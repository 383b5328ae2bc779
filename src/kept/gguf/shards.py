"""A model in several GGUF files: MODEL-00001-of-00003.gguf and its like."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from kept.errors import CheckpointNotFoundError, WeightsError
from kept.gguf.header import GGUFHeader, GGUFTensor, read_header

SUFFIX = ".gguf"
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
_MAX_SHARDS = 1_000


def is_gguf(path: Path) -> bool:
    """Whether a path is that of a GGUF file, by its name; folders may be called anything."""
    return path.name.lower().endswith(SUFFIX) and not path.is_dir()


def shard_names(name: str) -> list[str]:
    """The names of all files that belong to the one of this name: itself, or all shards."""
    found = _SHARD.fullmatch(name)
    if found is None or not 1 < int(found[3]) <= _MAX_SHARDS:
        return [name]
    return [f"{found[1]}-{i:05}-of-{found[3]}.gguf" for i in range(1, int(found[3]) + 1)]


def read_headers(path: Path) -> GGUFHeader:
    """The header of a GGUF file; of one of several shards that of the first, with all tensors.

    Raises as `read_header`, and WeightsError where shards do not belong together.
    """
    names = shard_names(path.name)
    missing = [name for name in names if not (path.parent / name).exists()]
    if len(names) > 1 and missing:
        raise CheckpointNotFoundError(
            f"{path} is one of {len(names)} files of a model, of which {len(missing)} are not "
            f"there: {', '.join(missing[:8])}. Download them too."
        )
    return join_headers([read_header(path.parent / name) for name in names])


def join_headers(headers: list[GGUFHeader]) -> GGUFHeader:
    """The header of the first of all the files of a model, with the tensors of all.

    Raises WeightsError where they do not belong together.
    """
    names = [header.path.name for header in headers]
    count = headers[0].metadata.get("split.count", 1)
    if count not in (1, len(names)) or (count == 1) != (len(names) == 1):
        raise WeightsError(
            f"{headers[0].path} says that it is one of {count!r} files, and its name says one of "
            f"{len(names)}. Give the files the names they were published with."
        )
    tensors: dict[str, GGUFTensor] = {}
    for header in headers:
        twice = next((name for name in header.tensors if name in tensors), None)
        if twice is not None:
            raise WeightsError(
                f"Tensor {twice!r} is both in {tensors[twice].path.name} and in "
                f"{header.path.name}. The files are of different models; download them again."
            )
        tensors |= header.tensors
    return replace(headers[0], tensors=tensors)
