"""Which implementation the operations run on, and how: read from the environment.

KEPT_OPS=auto|native|reference     the native kernels, or plain torch; auto takes the kernels
                                   wherever they can run a model and says once where they cannot
KEPT_ISA=amx|avx512bf16|...        the kernels' instructions; by default the best this CPU has.
                                   amx_emulated runs anywhere, and is for tests
KEPT_NUM_THREADS=N                 the kernels' threads; by default the CPUs this process has
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from kept import machine
from kept.errors import BackendError, OptionError
from kept.ops.forking import watch_forks

log = logging.getLogger("kept")

CHOICES = ("auto", "native", "reference")
NATIVE_DTYPES = (torch.float32, torch.bfloat16)
MAX_HEAD_DIM = 1024
MAX_REACH = 1 << 16  # tokens between which a bias by distance may differ
_MAX_THREADS = 1024

watch_forks()


def backend() -> str:
    """The backend that models on the CPU run on: "native" or "reference".

    Raises OptionError for an unknown KEPT_OPS, BackendError where `native` cannot be had.
    """
    choice = os.environ.get("KEPT_OPS", "auto")
    if choice not in CHOICES:
        raise OptionError(f"KEPT_OPS={choice!r} is not one of {', '.join(CHOICES)}")
    if choice == "native" and not machine.NATIVE_AVAILABLE:
        raise BackendError(
            f"KEPT_OPS=native, but {machine.native_error()}; or use KEPT_OPS=reference"
        )
    if choice == "reference" or not machine.NATIVE_AVAILABLE:
        return "reference"
    return "native"


def why_reference() -> str | None:
    """Why models on the CPU run on the torch reference; None where they run on the kernels."""
    if backend() == "native":
        return None
    if os.environ.get("KEPT_OPS") == "reference":
        return "KEPT_OPS=reference"
    return machine.native_error()


def why_torch(
    dtype: torch.dtype, device: torch.device, head_dim: int = 1, why_not: str | None = None
) -> str | None:
    """Why a model of these weights, with heads of up to `head_dim`, does not run on the kernels.

    None where it does. why_not: the reason why its family cannot, if there is one.
    """
    if backend() == "reference":
        return why_reference()
    if why_not is not None:
        return why_not
    if device.type != "cpu":
        return f"the native kernels run on the CPU, and the model is on {device}"
    if dtype not in NATIVE_DTYPES:
        return f"the native kernels compute in float32 or bfloat16, and the model is {dtype}"
    if head_dim > MAX_HEAD_DIM:
        return (
            f"the native kernels take heads of up to {MAX_HEAD_DIM}, and the model has {head_dim}"
        )
    return None


def runs_natively(
    dtype: torch.dtype, device: torch.device, head_dim: int = 1, why_not: str | None = None
) -> bool:
    """Whether a model is to run on the kernels; see `why_torch`.

    Raises BackendError where KEPT_OPS=native demands it and they cannot run it; under `auto` the
    log says once why not.
    """
    why = why_torch(dtype, device, head_dim, why_not)
    choice = os.environ.get("KEPT_OPS", "auto")
    if why is None:
        return True
    if choice == "native":
        mended = why_not is None and head_dim <= MAX_HEAD_DIM
        advice = "pass dtype='bfloat16' and no device, or use" if mended else "use"
        raise BackendError(f"KEPT_OPS=native, but {why}; {advice} KEPT_OPS=auto")
    if choice == "auto":
        say_once(f"using the torch reference: {why}")
    return False


@cache
def say_once(text: str) -> None:
    """Log a warning the first time it is given."""
    log.warning(text)


def isa() -> str:
    """The instruction set the kernels are to use: KEPT_ISA, or the best there is.

    Raises OptionError for one that does not exist, or not on this CPU.
    """
    from kept import _native

    names = _native.isa_names()
    asked = os.environ.get("KEPT_ISA")
    if asked is None:
        return names[0]
    if asked not in names and asked not in _native.emulated_isa_names():
        raise OptionError(
            f"KEPT_ISA={asked!r} cannot be had on this CPU; it has {', '.join(names)}"
        )
    return asked


def num_threads() -> int:
    """How many threads the kernels are to use: KEPT_NUM_THREADS, or as many as there are CPUs.

    Raises OptionError for a value that is no whole number of at least 1.
    """
    asked = os.environ.get("KEPT_NUM_THREADS")
    if asked is None:
        return min(machine.num_cores(), _MAX_THREADS)
    if not asked.isdecimal() or not 1 <= int(asked) <= _MAX_THREADS:
        raise OptionError(
            f"KEPT_NUM_THREADS={asked!r} must be a whole number from 1 to {_MAX_THREADS}"
        )
    return int(asked)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Hold torch to one thread meanwhile."""
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    try:
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)


def use_threads(count: int | None = None) -> int:
    """Give the kernels' pool `count` threads, by default `num_threads()`; returns the count.

    Raises OptionError for fewer than 1 or more than 1,024, BackendError where the system grants no
    more threads.
    """
    from kept import _native

    wanted = num_threads() if count is None else count
    if not 1 <= wanted <= _MAX_THREADS:
        raise OptionError(f"{wanted} threads: give from 1 to {_MAX_THREADS}")
    if _native.num_threads() != wanted:
        try:
            _native.set_num_threads(wanted)
        except RuntimeError as error:
            raise BackendError(
                f"{wanted} threads cannot be started ({error}); set KEPT_NUM_THREADS to fewer"
            ) from error
    return wanted
