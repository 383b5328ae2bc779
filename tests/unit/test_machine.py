"""What the machine is, and the probes: their faces, never their figures."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kept import machine, system
from kept.errors import BackendError, OptionError

MIB = 1 << 20

needs_native = pytest.mark.skipif(
    not machine.NATIVE_AVAILABLE, reason="installed without a C++ compiler"
)


@pytest.fixture
def without_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "NATIVE_AVAILABLE", False)
    monkeypatch.setattr(machine, "_import_error", "No module named 'kept._native'")


def assert_is_rate(rate: machine.Rate, num_threads: int) -> None:
    assert rate.path
    assert rate.num_threads == num_threads
    assert rate.best >= rate.median > 0


def test_machine_is_described() -> None:
    here = machine.describe_machine()
    assert here.cpu
    assert here.architecture
    assert here.num_cores == machine.num_cores() >= 1
    assert here.total_memory is None or here.total_memory >= (here.available_memory or 0) > 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        here.cpu = "another"  # type: ignore[misc]  # the point of the test


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is set with Linux's call")
def test_affinity_limits_the_cores() -> None:
    one = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, {{{one}}}); "
        "from kept import machine; print(machine.num_cores())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


@needs_native
@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="the kernel's list is on Linux")
def test_features_agree_with_the_kernel() -> None:
    words = set(Path("/proc/cpuinfo").read_text().split())
    kernel_names = {"neon": "asimd", "dotprod": "asimddp", "avx512_vbmi": "avx512vbmi"}
    for feature in machine.describe_machine().features:
        assert kernel_names.get(feature, feature) in words


@pytest.mark.parametrize("num_threads", [1, 3])
def test_bandwidth(num_threads: int) -> None:
    rate = machine.measure_bandwidth(num_threads, size_bytes=4 * MIB + 17, num_runs=2)
    assert_is_rate(rate, num_threads)


@needs_native
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("num_threads", [1, 3])
def test_matrix_peak(dtype: machine.MatrixDtype, num_threads: int) -> None:
    assert_is_rate(machine.measure_matrix_peak(dtype, num_threads, num_runs=2), num_threads)


@needs_native
def test_int8_peak_or_a_clear_refusal() -> None:
    try:
        assert_is_rate(machine.measure_matrix_peak("int8", 1, num_runs=2), 1)
    except BackendError as error:
        assert "has no int8" in str(error)  # noqa: PT017  # either outcome is right


def test_defaults_use_every_core() -> None:
    rate = machine.measure_bandwidth(size_bytes=machine.num_cores() * 2 * MIB, num_runs=1)
    assert_is_rate(rate, machine.num_cores())


@pytest.mark.usefixtures("without_native")
def test_torch_stands_in_and_says_so() -> None:
    assert machine.describe_machine().features == ()
    assert machine.num_cores() >= 1
    assert machine.measure_bandwidth(1, 4 * MIB, num_runs=1).path == "torch.sum"
    assert machine.measure_matrix_peak("fp32", 1, num_runs=1).path == "torch.matmul torch.float32"
    with pytest.raises(BackendError, match="int8 matrix product"):
        machine.measure_matrix_peak("int8", 1)


@needs_native
def test_native_error_is_none_with_the_module() -> None:
    assert machine.native_error() is None


@pytest.mark.usefixtures("without_native")
def test_native_error_names_the_remedy() -> None:
    error = machine.native_error()
    assert error is not None
    assert "kept._native" in error
    assert "pip install" in error


def test_native_error_passes_on_what_the_build_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "kept was installed without its native module: no compiler."
    monkeypatch.setattr(machine, "_import_error", said)
    assert machine.native_error() == said


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_threads": 0}, "num_threads is 0"),
        ({"num_threads": -1}, "num_threads is -1"),
        ({"num_threads": 1 << 20}, "between 1 and 1024"),
        ({"num_threads": 1.5}, "whole number"),
        ({"num_threads": True}, "whole number"),
        ({"size_bytes": -1}, "size_bytes is -1"),
        ({"size_bytes": 0}, "size_bytes is 0"),
        ({"num_threads": 4, "size_bytes": 2 * MIB}, f"between {4 * MIB}"),
        ({"size_bytes": 1 << 62}, "size_bytes is"),
        ({"num_runs": 0}, "num_runs is 0"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, int], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        machine.measure_bandwidth(**options)


def test_bad_dtype_lists_the_good_ones() -> None:
    with pytest.raises(OptionError, match="'fp64'; it must be one of fp32, bf16, int8"):
        machine.measure_matrix_peak("fp64")  # type: ignore[arg-type]  # the point of the test


def test_container_limits_are_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "cpu.max": ["max 100000", "150000 100000"],
        "memory.max": ["max", str(64 * MIB)],
        "memory.current": ["0", str(16 * MIB)],
    }
    monkeypatch.setattr(system, "cgroup_files", lambda name: files[name])
    here = machine.describe_machine()
    assert here.num_cores == min(2, os.cpu_count() or 1)
    assert here.total_memory == 64 * MIB
    assert here.available_memory == 48 * MIB
