"""Torch's threads, let go before a fork.

Torch computes on GNU's OpenMP, which knows nothing of forks: a child has none of the threads that
the forking thread had gathered, and would wait for them in its first parallel operation for ever.
What is let go before is gathered anew, by parent and child alike, when they next need it.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch

from kept import machine

log = logging.getLogger("kept")

_HARD = 2  # omp_pause_hard: threads and all
_kept_threads = False  # whether the forking thread could not let go of them


def own_openmp() -> list[str]:
    """GNU's OpenMP as torch brings it along, where it does."""
    return [str(path) for path in (Path(torch.__file__).parent / "lib").glob("libgomp*")]


def _find_pause() -> Callable[[int], int] | None:
    """OpenMP's call to let go of the calling thread's threads; None where torch computes on
    another, which looks after forks itself."""
    if not hasattr(os, "RTLD_NOLOAD"):
        return None
    for name in (*own_openmp(), "libgomp.so.1"):
        try:
            library = ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        except OSError:  # not loaded
            continue
        found: Callable[[int], int] = getattr(library, "omp_pause_resource_all", _cannot)
        return found
    return None


def _cannot(kind: int) -> int:
    return -1  # as a GNU OpenMP before version 5


_pause = _find_pause()


def _before() -> None:
    global _kept_threads
    _kept_threads = _pause is not None and _pause(_HARD) != 0


def _in_child() -> None:
    if not _kept_threads:
        return
    torch.set_num_threads(1)
    if machine.NATIVE_AVAILABLE:
        from kept import _native

        _native.forget_torch_team()
    log.warning(
        "torch computes on one thread in this forked process: its OpenMP cannot let go of the "
        "parent's threads; start processes by spawning instead"
    )


def watch_forks() -> None:
    """See to every fork of this process from now on; to be called once."""
    os.register_at_fork(before=_before, after_in_child=_in_child)
