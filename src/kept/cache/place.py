"""Where a cache's buffers lie: in memory, or in files that are mapped.

A step goes through the layers in order, so what lies in files need not be in memory at once. The
first layers stay, as many as the budget allows beyond two; of the others one is being attended
while the next is read ahead:

    budget of 4 layers, layer 5 of 8 begins     0  1 | .  .  .  5  6  .
                                               stay   left     now ahead

A step over layers in a fixed order would make "least recently used" throw out just what comes next.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import prod
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from kept.cache import memory
from kept.errors import CacheFullError, OptionError
from kept.format import format_bytes
from kept.paths import read_path

Buffers = tuple[Tensor, ...]

_MORE_FILES = (
    "every buffer of an offloaded cache is a file of its own, opened twice: raise the limit of "
    "open files (ulimit -n), or keep fewer caches at once"
)
_MORE_DISK = "make room, give another offload_folder, or generate less"
_REMEDIES = {
    errno.ENOSPC: _MORE_DISK,
    errno.EDQUOT: _MORE_DISK,
    errno.EFBIG: _MORE_DISK,
    errno.EMFILE: _MORE_FILES,
    errno.ENFILE: _MORE_FILES,
    errno.ENOMEM: "raise the limit of mappings (sysctl vm.max_map_count) or of address space",
}


class Place(ABC):
    """Makes buffers, and is told which layer a step has come to."""

    @abstractmethod
    def zeros(self, size: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A buffer of zeros. Raises CacheFullError where there is no room for it."""

    def clone(self, x: Tensor) -> Tensor:
        """A copy of a buffer, in this place."""
        return self.zeros(x.shape, x.dtype).copy_(x)

    @abstractmethod
    def visit(self, layers: Sequence[Buffers], index: int, used: Sequence[Sequence[int]]) -> None:
        """A step begins with layer `index`. used: of each layer, how many entries of each slot, or
        block, are; of an encoder's input, a buffer (G, S, width), all are.

        Raises CacheFullError where the budget does not hold two layers.
        """

    @abstractmethod
    def leave(self, buffers: Buffers) -> None:
        """These are not needed for a while."""

    @property
    @abstractmethod
    def budget(self) -> int | None:
        """Bytes of buffers in memory at most; None: all of them are."""


class InMemory(Place):
    """Buffers in a device's memory, see `memory.py`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def zeros(self, size: Sequence[int], dtype: torch.dtype) -> Tensor:
        """See `Place.zeros`."""
        return memory.zeros(size, dtype, self.device)

    def visit(self, layers: Sequence[Buffers], index: int, used: Sequence[Sequence[int]]) -> None:
        """Nothing to fetch."""

    def leave(self, buffers: Buffers) -> None:
        """Nothing to give back."""

    @property
    def budget(self) -> int | None:
        """See `Place.budget`."""
        return None


class _MappedFile:
    """A file without a name, which is gone when nothing maps it any more.

    memory: all of it, zeros. Its disk space is reserved, because writing to a page that has no room
    on the disk would kill the process.
    """

    def __init__(self, folder: Path, num_bytes: int) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  # lasts
        os.posix_fallocate(self.descriptor, 0, num_bytes)
        self.memory = mmap.mmap(self.descriptor, num_bytes)

    @property
    def descriptor(self) -> int:
        """Of the open file."""
        return self._file.fileno()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


class Offloaded(Place):
    """Buffers in nameless files of a folder, `budget` bytes of each cache held in memory.

    The files' disk space is reserved when they are made. Linux alone lets a program say which pages
    of a file it is done with.
    """

    def __init__(self, folder: str | os.PathLike[str], budget: int) -> None:
        """Raises OptionError for a folder or a budget that will not do."""
        self.folder = read_path(folder, "offload_folder")
        self._budget = budget
        self._files = WeakIdKeyDictionary()
        self._num_staying = 0
        if not sys.platform.startswith("linux"):
            raise OptionError(
                f"a cache in files needs Linux, and this is {sys.platform}; leave "
                "offload_folder out"
            )
        if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1:
            raise OptionError(
                f"offload_memory={budget!r}: give how many bytes of keys and values are in memory"
            )
        if not os.path.isdir(self.folder) or not os.access(self.folder, os.W_OK):
            raise OptionError(
                f"offload_folder={self.folder} is no folder that can be written to; make it first"
            )
        try:
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as error:
            raise OptionError(
                f"offload_folder={self.folder} takes no files ({error.strerror}); give one on a "
                "disk"
            ) from error
        kind = _file_system(self.folder)
        if kind in ("tmpfs", "ramfs"):
            raise OptionError(
                f"offload_folder={self.folder} is on a {kind}, which lies in memory itself; give a "
                "folder on a disk"
            )

    @property
    def budget(self) -> int | None:
        """See `Place.budget`."""
        return self._budget

    def zeros(self, size: Sequence[int], dtype: torch.dtype) -> Tensor:
        """See `Place.zeros`."""
        count = prod(size)
        if not count:
            return torch.zeros(*size, dtype=dtype, device="cpu")
        file = self._reserved(count * dtype.itemsize)
        tensor = torch.frombuffer(file.memory, dtype=dtype).view(*size)
        self._files[tensor] = file
        return tensor

    def _reserved(self, num_bytes: int) -> _MappedFile:
        """A new file of zeros, mapped."""
        try:
            return _MappedFile(self.folder, num_bytes)
        except OSError as error:
            remedy = _REMEDIES.get(error.errno or 0)
            if remedy is None:
                raise
            raise CacheFullError(
                f"{self.folder} has no room for {format_bytes(num_bytes)} of keys and values "
                f"({error.strerror}); {remedy}"
            ) from error

    def visit(self, layers: Sequence[Buffers], index: int, used: Sequence[Sequence[int]]) -> None:
        """See `Place.visit`."""
        last = len(layers) - 1
        if index == 0:
            self._num_staying = self._count_staying(layers, used)
        first = self._num_staying  # of those that do not stay
        if first > last:
            return
        if index >= first:
            self.leave(layers[index - 1 if index > first else last])
        if index >= first - 1:
            ahead = index + 1 if index < last else first
            self._fetch(layers[ahead], used[ahead])

    def _count_staying(self, layers: Sequence[Buffers], used: Sequence[Sequence[int]]) -> int:
        need = max(map(_used_bytes, layers, used))
        if need * len(layers) <= self._budget:
            return len(layers)
        if need * 2 > self._budget:
            raise CacheFullError(
                f"offload_memory of {format_bytes(self._budget)} does not hold two layers of keys "
                f"and values, {format_bytes(need)} of the largest; raise it"
            )
        return self._budget // need - 2

    def _fetch(self, buffers: Buffers, used: Sequence[int]) -> None:
        for buffer in buffers:
            file = self._files.get(buffer)
            if file is None:
                continue
            heads, capacity, width = buffer.shape[-3:]
            row = width * buffer.element_size()
            for slot, count in enumerate(_used_entries(buffer, used)):
                for head in range(heads if count else 0):
                    begin = (slot * heads + head) * capacity * row
                    first = begin - begin % mmap.PAGESIZE
                    size = begin + count * row - first
                    file.memory.madvise(mmap.MADV_WILLNEED, first, size)

    def leave(self, buffers: Buffers) -> None:
        """See `Place.leave`."""
        for buffer in buffers:
            file = self._files.get(buffer)
            if file is not None:
                file.memory.madvise(mmap.MADV_DONTNEED)
                # Begins to write what has changed, and lets go of the rest.
                os.posix_fadvise(file.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _used_bytes(buffers: Buffers, used: Sequence[int]) -> int:
    """Bytes in memory when all used entries are: whole pages for each slot and head."""
    total = 0
    for buffer in buffers:
        heads, width = buffer.shape[-3], buffer.shape[-1]
        for count in _used_entries(buffer, used):
            held = count * width * buffer.element_size()
            total += heads * -(-held // mmap.PAGESIZE) * mmap.PAGESIZE
    return total


def _used_entries(buffer: Tensor, used: Sequence[int]) -> list[int]:
    """Of each slot of a buffer, or of the one input that it holds."""
    capacity = buffer.shape[-2]
    return [min(n, capacity) for n in used] if buffer.ndim == 4 else [capacity]


def _file_system(folder: Path) -> str:
    """The type of file system a folder is on, "" where the system does not say."""
    found, longest = "", -1
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return ""
    target = folder.resolve()
    for line in lines:
        _, point, kind, *_ = line.split(" ")
        mounted = Path(point.encode().decode("unicode_escape"))
        if target.is_relative_to(mounted) and len(mounted.parts) > longest:
            found, longest = kind, len(mounted.parts)
    return found
