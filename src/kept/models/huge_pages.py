"""Pages of the size of many, for weights in a mapped file."""

from __future__ import annotations

import ctypes
import mmap

from torch import Tensor


def advise_huge_pages(first: Tensor, num_bytes: int) -> None:
    """Ask the system for huge pages where a mapped file has its numbers, from those of `first` on.

    Linux since 5.18 then reads what is not in its page cache yet in huge pages, if the file system
    can (ext4 since 6.16, XFS, Btrfs); what it has in smaller ones stays so, and so does everything
    where the kernel knows no such advice. Nothing but time depends on it.
    """
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is None or num_bytes == 0:
        return
    before = first.data_ptr() % mmap.PAGESIZE
    begin, size = first.data_ptr() - before, before + num_bytes
    ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(size), advice)
