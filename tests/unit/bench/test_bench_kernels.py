"""The kernels' benchmark on a tiny shape and by a clock of its own: figures, files, errors."""

import json
import os
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest
from png_file import png_size
from tiny_config import TINY
from typer.testing import CliRunner

from kept import machine
from kept.bench import kernel_cases, kernels, shapes
from kept.bench.kernel_progress import KernelProgress
from kept.bench.kernel_report import kernel_figures
from kept.bench.kernel_walk import Case, Walk
from kept.bench.kernels import KernelSettings, make_groups, run_kernels
from kept.bench.work import Work
from kept.cli.bench import bench_app
from kept.errors import BackendError, OptionError

runner = CliRunner(env={"NO_COLOR": "1", "COLUMNS": "120"})
TINIEST = ["kernels", "--shape", "tiny", "--rows", "1,3", "--lengths", "5,70", "--runs", "2"]
native = pytest.mark.skipif(not machine.NATIVE_AVAILABLE, reason="needs the native kernels")

pytestmark = pytest.mark.usefixtures("bandwidth", "tiny_shape")


@pytest.fixture
def tiny_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shape of that name, on a machine whose last-level cache is 16 KiB."""
    known = {**shapes.SHAPES, "tiny": TINY}
    monkeypatch.setattr(shapes, "SHAPES", known)
    small = machine.describe_machine()
    described = machine.Machine(
        "a CPU", "x", "y", 1, 16 << 10, 1 << 30, 1 << 30, small.features
    )  # fmt: skip
    monkeypatch.setattr(kernels, "describe_machine", lambda: described)
    monkeypatch.delenv("KEPT_OPS", raising=False)


class Watcher:
    """Counts runs, and presses Ctrl-C at one if asked to."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.runs, self.prepared = 0, list[str]()
        self._stop_at = stop_at

    def expected(self, seconds: float) -> None:
        assert seconds > 0

    def preparing(self, what: str) -> None:
        self.prepared.append(what)

    def spent(self, seconds: float, expected: float) -> None:
        assert seconds == pytest.approx(0.5)
        assert expected > 0
        self.runs += 1
        if self.runs == self._stop_at:
            raise KeyboardInterrupt


def ticking() -> Iterator[float]:
    now = 0.0
    while True:
        yield now
        now += 0.5


def tiny_settings() -> KernelSettings:
    return KernelSettings("tiny", (1, 3), (5, 70), runs=2, threads=1)


@native
def test_every_case_is_timed_over_memory_no_cache_holds() -> None:
    watcher, before = Watcher(), dict(os.environ)
    result = run_kernels(tiny_settings(), watcher, ticking().__next__)
    assert dict(os.environ) == before
    assert not result.interrupted
    assert not result.short
    assert result.num_threads == 1
    linear = [t for t in result.timed if t.case.kind == "linear"]
    names = ["qkv", "out", "gate_up", "down", "head"]
    assert list(dict.fromkeys(t.case.name for t in linear)) == names
    assert len(linear) == 5 * 4 * 2
    attention = [
        (t.case.name, t.case.length, t.case.rows)
        for t in result.timed
        if t.case.stored == "int8" and t.case.kind == "attention"
    ]
    assert attention == [
        ("decode", 5, 1), ("prompt", 5, 5), ("shared", 5, 16),
        ("decode", 70, 1), ("prompt", 70, 70), ("shared", 70, 16),
    ]  # fmt: skip
    for timed in result.timed:
        assert timed.num_copies * timed.case.work.num_bytes >= 64 << 10
        assert timed.seconds == pytest.approx([0.5 / timed.per_run] * 2)
    assert watcher.runs == 2 * len(result.timed)
    assert [len(x.peaks) for x in result.limits.values()] == [2, 2]


@native
def test_figures_follow_from_bytes_operations_and_times() -> None:
    settings = KernelSettings(
        "tiny", (3,), (70,), (80,), (3,), formats=("fp32",), codecs=("int8",), runs=2
    )
    result = run_kernels(settings, Watcher(), ticking().__next__)
    for found in kernel_figures(result):
        work = found.case.work
        assert found.median == found.p10 == found.p90 == pytest.approx(0.5 / found.per_run)
        assert found.bytes_per_second == pytest.approx(work.num_bytes / found.median)
        assert found.operations_per_second == pytest.approx(work.operations / found.median)
        floor = max(work.num_bytes / 2e9, work.operations / 4e12)
        assert found.floor == pytest.approx(floor)
        assert found.share == pytest.approx(floor / found.median)
    qkv = result.timed[0].case
    # 16 inputs are padded to 32, and each of 32 outputs has a bias.
    assert qkv.work == Work(32 * (32 + 1) * 4, 0, 2 * 3 * 16 * 32)
    prompt, shared = (timed.case for timed in result.timed[-2:])
    # Two of keys and values, two heads of four codes and a scale; four heads of queries.
    assert prompt.work == Work(0, 2 * 2 * 70 * 6, 4 * 4 * 4 * 70 * 71 // 2)
    # Three sequences have 64 of 70 tokens in common.
    assert shared.work == Work(0, 2 * 2 * (64 + 3 * 6) * 6, 3 * 4 * 4 * 4 * 70)


@native
@pytest.mark.parametrize("format", kernel_cases.FORMATS)
def test_bytes_are_known_without_packing(format: str) -> None:
    for layer in kernel_cases.shape_layers("tiny"):
        packed = kernel_cases._pack(layer, format)
        copied = kernel_cases._copy(packed)
        assert kernel_cases.packed_bytes(format, layer) == packed.num_bytes
        assert copied.data.data_ptr() != packed.data.data_ptr()
        assert bool((copied.unpack() == packed.unpack()).all())


def test_a_walk_goes_round_all_copies() -> None:
    asked: list[tuple[int, int]] = []

    class Program:
        def run(self, step: object, first: int, last: int) -> None:
            asked.append((first, last))

    case = Case("linear", "x", "fp32", 1, None, Work(1, 0, 4 * 10**9), "fp32")
    walk = Walk(Program(), None, 2, 6, case)  # type: ignore[arg-type]  # all that it needs of one
    assert walk.per_run == 2
    for _ in range(4):
        walk.run()
    assert asked == [(0, 2), (2, 4), (4, 6), (6, 8), (2, 4)]


@native
def test_the_command(tmp_path: Path) -> None:
    files = ["--json", str(tmp_path / "a.json"), "--png", str(tmp_path / "a.png")]
    done = runner.invoke(bench_app, [*TINIEST, "--threads", "1", *files])
    assert done.exit_code == 0, done.output
    for words in ("Kernels of tiny", "Linear layers", "gate_up", "Attention of one layer",
                  "of floor", " 16* ", "Read bandwidth in the same run: 2.0 GB/s"):  # fmt: skip
        assert words in done.stdout
    assert "…" not in done.stdout
    assert "At the machine's limits" in done.stderr
    assert png_size(tmp_path / "a.png") == (2400, 960)
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["benchmark"] == "kernels"
    assert found["machine"]["kernel_threads"] == 1
    assert found["isa"] in machine._native.isa_names()
    assert all(len(case["seconds"]) == 2 for case in found["cases"])
    assert len(found["cases"]) == 5 * 4 * 2 + 4 * 6


@native
def test_ctrl_c_reports_what_there_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    watcher = Watcher(stop_at=3)
    result = run_kernels(tiny_settings(), watcher, ticking().__next__)
    assert result.interrupted
    assert [len(timed.seconds) for timed in result.timed] == [2, 1]

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(KernelProgress, "spent", stop)
    done = runner.invoke(bench_app, [*TINIEST, "--png", str(tmp_path / "a.png")])
    assert done.exit_code == 130
    assert "Interrupted: this is what was measured so far." in done.stdout
    monkeypatch.setattr(KernelProgress, "expected", stop)
    done = runner.invoke(bench_app, TINIEST)
    assert done.exit_code == 130
    assert "before anything was measured" in done.stderr


@native
@pytest.mark.parametrize("isa", machine._native.isa_names() if machine.NATIVE_AVAILABLE else [])
def test_every_instruction_set(isa: str) -> None:
    settings = KernelSettings("tiny", (2,), (), formats=("int4",), isa=isa, runs=1, threads=1)
    assert run_kernels(settings, Watcher(), ticking().__next__).isa == isa


@native
def test_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def free(count: int) -> None:
        described = machine.Machine("a CPU", "x", "y", 1, 16 << 10, count, count, ())
        monkeypatch.setattr(kernels, "describe_machine", lambda: described)

    free(1 << 10)
    with pytest.raises(OptionError, match=r"qkv in fp32 takes .* take a smaller shape"):
        run_kernels(tiny_settings(), Watcher(), ticking().__next__)
    free(320 << 10)
    result = run_kernels(tiny_settings(), Watcher(), ticking().__next__)
    assert result.short


def test_the_reference_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT_OPS", "reference")
    with pytest.raises(BackendError, match="KEPT_OPS=reference; set it to auto"):
        run_kernels(tiny_settings(), Watcher())
    monkeypatch.delenv("KEPT_OPS")
    monkeypatch.setattr(machine, "NATIVE_AVAILABLE", False)
    monkeypatch.setattr(machine, "_import_error", "no such file")
    with pytest.raises(BackendError, match="native module cannot be loaded"):
        run_kernels(tiny_settings(), Watcher())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--shape", "gpt9"], "no shape is called 'gpt9'"),
        (["--formats", "fp32,fp8"], "'fp8' is not one of fp32"),
        (["--codecs", "float64"], "'float64' is not one of float32"),
        (["--shape", "deepseek-v2-lite"], "kept bench decode --shape deepseek-v2-lite"),
        (["--rows", "0"], "rows=0: give at least 1"),
        (["--rows", "", "--lengths", ""], "nothing to measure"),
    ],
)
def test_wrong_settings(options: list[str], words: str) -> None:
    done = runner.invoke(bench_app, ["kernels", *options])
    assert isinstance(done.exception, OptionError)
    assert words in str(done.exception)


@native
def test_unknown_instructions() -> None:
    with pytest.raises(OptionError, match="isa='sse9' cannot be had on this CPU"):
        run_kernels(KernelSettings("tiny", isa="sse9"), Watcher())


def test_no_list_of_numbers() -> None:
    done = runner.invoke(bench_app, ["kernels", "--rows", "1,many"])
    assert done.exit_code == 2
    assert "is not a list of whole numbers" in done.stderr


@native
def test_gpt2_activates_where_others_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = {layer.name: layer.epilogue for layer in kernel_cases.shape_layers("gpt2")}
    assert layers == {
        "qkv": "store", "out": "add", "up": "activate", "down": "add", "head": "logits"
    }  # fmt: skip
    groups = make_groups(KernelSettings("gpt2"))
    names = [(case.name, case.stored, case.rows, case.length) for g in groups for case in g.cases]
    assert not any(one == other for one, other in combinations(names, 2))
