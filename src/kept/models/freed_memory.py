"""Memory that was freed, and that the C library holds back."""

from __future__ import annotations

import ctypes
import os


def give_back_freed_memory() -> None:
    """Return to the system what lies free between living memory, where the C library can (glibc).

    It does not reuse aligned memory well: casts and codes that live for a matrix's time would pile
    up to more than the model takes.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)
