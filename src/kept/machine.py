"""What this machine is and what it can do: cores, memory, instructions, and two limits.

Decode is bound by the rate at which weights and cache are read from memory, prefill by the rate of
matrix arithmetic. `measure_bandwidth` and `measure_matrix_peak` measure those two, so that a
benchmark can say how far from the limit it was, on the same machine in the same minute. The native
module measures them; without it torch does, which the result's `path` says.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal, TypeVar, get_args

from kept import system
from kept.errors import BackendError, OptionError

_import_error: str | None = None
try:
    from kept import _native
except ImportError as error:
    _import_error = str(error)

NATIVE_AVAILABLE: Final = _import_error is None

MatrixDtype = Literal["fp32", "bf16", "int8"]
T = TypeVar("T")

_MIB = 1 << 20
_MAX_THREADS = 1024
_MIN_BYTES_PER_THREAD = _MIB
_MATMUL_SIZE = 1024  # of torch's fallback: large enough to reach its best rate on a few cores


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine as this process may use it: affinity and container limits are taken off."""

    cpu: str
    """Model name."""
    architecture: str
    """As `platform.machine()`: x86_64, aarch64, arm64 ..."""
    system: str
    """Operating system and release."""
    num_cores: int
    """Logical CPUs this process may keep busy."""
    last_level_cache: int | None
    """Bytes of the last-level caches together; None where the system does not say."""
    total_memory: int | None
    """Bytes; None where the system does not say."""
    available_memory: int | None
    """Bytes that can be had without swapping; None where the system does not say."""
    features: tuple[str, ...]
    """Instruction sets that kept looks for and may use here; empty without the native module."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What a probe measured. `best` and `median` of the runs, in bytes or operations per second."""

    path: str
    """The instructions, or the torch function, that were timed."""
    num_threads: int
    best: float
    median: float


def native_error() -> str | None:
    """Say why the native module is missing and how to get it; None where it is there."""
    if _import_error is None:
        return None
    if _import_error.startswith("kept was installed"):  # the build's own words, with the remedy
        return _import_error
    return (
        f"kept's native module cannot be loaded ({_import_error}); "
        "build it with a C++20 compiler and pip install ."
    )


def describe_machine() -> Machine:
    """Look at the machine; takes milliseconds and measures nothing."""
    total, available = system.memory()
    detected = _native.cpu_features() if NATIVE_AVAILABLE else {}
    return Machine(
        cpu=system.cpu_name(),
        architecture=platform.machine(),
        system=f"{platform.system()} {platform.release()}",
        num_cores=num_cores(),
        last_level_cache=system.last_level_cache(),
        total_memory=total,
        available_memory=available,
        features=tuple(name for name, present in detected.items() if present),
    )


@cache
def total_memory() -> int | None:
    """Bytes of memory, cut by the limits of the control groups, as they were when first asked."""
    return system.memory()[0]


def num_cores() -> int:
    """Count the CPUs this process may keep busy: its affinity mask, cut by a container's quota."""
    if NATIVE_AVAILABLE:
        cores = _native.num_cores()
    elif sys.platform == "linux":
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    for text in system.cgroup_files("cpu.max"):
        quota, period = text.split()
        if quota != "max":
            cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(cores, 1)


def measure_bandwidth(
    num_threads: int | None = None, size_bytes: int | None = None, num_runs: int = 7
) -> Rate:
    """Measure the rate at which threads together read memory, in bytes per second.

    `num_threads` defaults to `num_cores()`. `size_bytes`, by default the larger of 512 MiB and
    eight times the last-level cache but at most a quarter of the free memory, is allocated and
    read `num_runs` times. Raises OptionError for an argument out of range, BackendError when the
    memory or the threads cannot be had.
    """
    threads = _valid_threads(num_threads)
    _require("num_runs", num_runs, 1, 10_000)
    available = system.memory()[1] or sys.maxsize
    if size_bytes is None:
        size_bytes = max(512 * _MIB, 8 * (system.last_level_cache() or 0))
        size_bytes = max(min(size_bytes, available // 4), threads * _MIN_BYTES_PER_THREAD)
    _require("size_bytes", size_bytes, threads * _MIN_BYTES_PER_THREAD, available)
    if NATIVE_AVAILABLE:
        native = _run(lambda: _native.read_bandwidth(threads, size_bytes, num_runs))
        return Rate(native.path, threads, native.best, native.median)
    return _torch_bandwidth(threads, size_bytes, num_runs)


def measure_matrix_peak(
    dtype: MatrixDtype = "fp32",
    num_threads: int | None = None,
    num_runs: int = 7,
    isa: str | None = None,
) -> Rate:
    """Measure the peak of matrix arithmetic, in operations per second (multiply and add are two).

    Times this CPU's best multiply-accumulate instruction for the type with every operand in
    registers, about 20 ms a run: no matrix product can be faster. Where the CPU has no bf16
    instruction, bf16 is bound by fp32's, and `path` says so. isa: the best of these kernels'
    instructions (KEPT_ISA). Raises OptionError for an argument out of range, BackendError where
    there is no instruction for the type.
    """
    if dtype not in get_args(MatrixDtype):
        known = ", ".join(get_args(MatrixDtype))
        raise OptionError(f"dtype is {dtype!r}; it must be one of {known}")
    threads = _valid_threads(num_threads)
    _require("num_runs", num_runs, 1, 10_000)
    if not NATIVE_AVAILABLE:
        return _torch_matrix_peak(dtype, threads, num_runs)
    native = _run(
        lambda: _native.matrix_peak(_native.MatrixDtype[dtype], threads, num_runs, isa or "")
    )
    if native is None:
        raise BackendError(
            f"this CPU ({system.cpu_name()}) has no {dtype} multiply-accumulate; use fp32"
        )
    return Rate(native.path, threads, native.best, native.median)


def _run(probe: Callable[[], T]) -> T:
    try:
        return probe()
    except MemoryError as error:
        raise BackendError("no memory for the probe's buffer; pass a smaller size_bytes") from error
    except RuntimeError as error:
        raise BackendError(f"the probe could not start its threads ({error})") from error


def _require(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise OptionError(f"{name} is {value!r}; it must be a whole number")
    if not low <= value <= high:
        raise OptionError(f"{name} is {value}; it must be between {low} and {high}")


def _valid_threads(num_threads: int | None) -> int:
    threads = min(num_cores(), _MAX_THREADS) if num_threads is None else num_threads
    _require("num_threads", threads, 1, _MAX_THREADS)
    return threads


def _torch_bandwidth(num_threads: int, size_bytes: int, num_runs: int) -> Rate:
    import torch

    data = torch.ones(size_bytes // 4, dtype=torch.float32, device="cpu")
    seconds = _time_torch(lambda: data.sum(), num_threads, num_runs)
    return _rate("torch.sum", num_threads, data.numel() * 4, seconds)


def _torch_matrix_peak(dtype: MatrixDtype, num_threads: int, num_runs: int) -> Rate:
    import torch

    if dtype == "int8":
        raise BackendError(f"torch has no int8 matrix product to time; {native_error()}")
    torch_dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    a = torch.full((_MATMUL_SIZE, _MATMUL_SIZE), 1e-3, dtype=torch_dtype, device="cpu")
    seconds = _time_torch(lambda: a @ a, num_threads, num_runs)
    return _rate(f"torch.matmul {torch_dtype}", num_threads, 2 * _MATMUL_SIZE**3, seconds)


def _time_torch(work: Callable[[], object], num_threads: int, num_runs: int) -> list[float]:
    """Time `work` with torch's thread count changed for as long as this takes."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        work()  # warm up: threads, pages, packed weights
        seconds = []
        for _ in range(num_runs):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        return seconds
    finally:
        torch.set_num_threads(before)


def _rate(path: str, num_threads: int, units: int, seconds: list[float]) -> Rate:
    return Rate(path, num_threads, units / min(seconds), units / statistics.median(seconds))
