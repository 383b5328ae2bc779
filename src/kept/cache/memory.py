"""Buffers in memory that is the system's again the moment nobody holds them.

malloc keeps what is freed below something that is still in use, and takes ever larger blocks from
its heap the longer a process runs. A cache that grows, wraps around or moves its slots would leave
holes there of several times its own bytes. So a large buffer is a mapping of its own, and small
ones are torch's.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from math import prod

import torch
from torch import Tensor

from kept.errors import CacheFullError
from kept.format import format_bytes

MAPPED = 128 << 10  # bytes from which rounding up to whole pages is lost in the noise
PAGE = mmap.PAGESIZE
HUGE_PAGE = 2 << 20
_COLLAPSE = 25  # MADV_COLLAPSE, of Linux 6.1
_NO_RESERVE = 0x4000  # MAP_NORESERVE, which Python 3.11 has no name for
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, which Python 3.11 has no name for


def zeros(size: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A buffer of zeros, all of it in memory, so that what a cache says it takes is what it takes.

    Nothing of it is shared with a forked child. Raises CacheFullError where there is no room.
    """
    num_bytes = prod(size) * dtype.itemsize
    try:
        if num_bytes < MAPPED or device.type != "cpu" or not sys.platform.startswith("linux"):
            return torch.zeros(*size, dtype=dtype, device=device)
        return torch.frombuffer(_mapped(num_bytes), dtype=dtype).view(*size)
    except (OSError, RuntimeError, MemoryError, OverflowError) as error:
        if not _says_full(error):
            raise
        raise CacheFullError(
            f"there is no room in memory for {format_bytes(num_bytes)} more of keys and values; "
            "store them as a smaller kv_dtype, generate less at once, use a sliding or evicting "
            "cache, or keep them in files (kv_folder)"
        ) from error


def reserved(num_bytes: int) -> mmap.mmap | None:
    """Memory that never moves, zeros, of which a page is taken when it is first written to; None
    where the system does not grant so much address space."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    flags |= _NO_RESERVE if sys.platform.startswith("linux") else 0
    try:
        memory = mmap.mmap(-1, num_bytes, flags=flags)
    except (OSError, OverflowError) as error:
        if not _says_full(error):
            raise
        return None
    if sys.platform.startswith("linux"):
        # A huge page is there as a whole, of which a buffer may use the first few bytes.
        _advise(memory, mmap.MADV_NOHUGEPAGE)
        # With a page there, what advice splits the kernel can put together again.
        memory[0] = 0
    return memory


def enlarge(memory: mmap.mmap, begin: int, end: int) -> None:
    """Let huge pages hold what lies whole ones of them wide between two bytes, all of which is in
    use or about to be: it is read a quarter faster. Nothing where the system has none."""
    begin, end = begin // PAGE * PAGE, end // PAGE * PAGE
    if not sys.platform.startswith("linux") or begin >= end:
        return
    for advice in (mmap.MADV_HUGEPAGE, _COLLAPSE):  # of pages to come, and of those there are
        with suppress(OSError):  # no page there yet, none to be had, or an older system
            _madvise(memory, advice, begin, end - begin)


def populate(memory: mmap.mmap, begin: int, end: int) -> None:
    """Have the pages there that bytes from `begin` to `end` lie on, all at once: that takes a third
    of the time that it takes page by page, when they are first written to."""
    begin, end = begin // PAGE * PAGE, -(-end // PAGE) * PAGE
    if sys.platform.startswith("linux") and begin < end:
        with suppress(OSError):  # an older system, or none is left: then writing tells
            _madvise(memory, _POPULATE_WRITE, begin, end - begin)


def forget(memory: mmap.mmap, begin: int, end: int) -> None:
    """Give the whole pages from byte `begin` to `end` back to the system; they are zeros then."""
    begin, end = -(-begin // PAGE) * PAGE, end // PAGE * PAGE
    if begin < end:
        _madvise(memory, mmap.MADV_DONTNEED, begin, end - begin)


def _mapped(num_bytes: int) -> mmap.mmap:
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if num_bytes >= HUGE_PAGE:
        _advise(memory, mmap.MADV_HUGEPAGE)
    if not _advise(memory, _POPULATE_WRITE):
        for page in range(0, num_bytes, mmap.PAGESIZE):
            memory[page] = 0
    return memory


def _advise(memory: mmap.mmap, advice: int) -> bool:
    """Whether the kernel knows this advice, which came with Linux 5.14 or is left out of some."""
    try:
        _madvise(memory, advice, 0, len(memory))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def _madvise(memory: mmap.mmap, advice: int, begin: int, size: int) -> None:
    """As `mmap.madvise`, which keeps the interpreter to itself for as long as that takes: while
    pages are put together, some tens of milliseconds in which a server would answer nobody."""
    if not sys.platform.startswith("linux"):
        memory.madvise(advice, begin, size)
        return
    first = ctypes.addressof(ctypes.c_char.from_buffer(memory, begin))
    if _libc().madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), advice):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _says_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOMEM, errno.EAGAIN)
    if isinstance(error, MemoryError | OverflowError | torch.OutOfMemoryError):
        return True
    return "allocate memory" in str(error)
