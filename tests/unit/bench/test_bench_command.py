"""`kept bench cache` as a user meets it: tables, JSON, PNG, Ctrl-C and wrong options."""

import json
from pathlib import Path
from typing import Any

import pytest
from png_file import png_size
from typer.testing import CliRunner

import kept
from kept import machine
from kept.bench import plot
from kept.bench.progress import BenchProgress
from kept.bench.shapes import SHAPES
from kept.bench.subject import Subject
from kept.cli.bench import bench_app
from kept.cli.errors import exit_code
from kept.errors import BackendError, ContextLengthError, KeptError, OptionError
from kept.machine import Rate

runner = CliRunner(env={"NO_COLOR": "1", "COLUMNS": "120"})
SMALL = ["--new", "12", "--prompt-tokens", "4", "--runs", "2"]
BUNDLED = Path(kept.__file__).parent / "bundled"

pytestmark = pytest.mark.usefixtures("bandwidth")


def test_report_json_and_png(
    shaped: list[tuple[object, ...]], tmp_path: Path, tiny: Subject, bandwidth: Rate
) -> None:
    files = ["--json", str(tmp_path / "a.json"), "--png", str(tmp_path / "a.png")]
    done = runner.invoke(bench_app, ["cache", *SMALL, *files])
    assert done.exit_code == 0, done.output
    # What is measured when nothing is named.
    assert shaped == [("gpt2", None, 0, None, None, "auto")]
    found = json.loads((tmp_path / "a.json").read_text())
    check_text(done.stdout, found)
    check_json(found, tiny, bandwidth)
    assert "This will take about" in done.stderr
    assert "with cache, run 1 of 2" in done.stderr
    width, height = png_size(tmp_path / "a.png")
    assert (width, height) == (1650, 720)


def check_text(text: str, found: dict[str, Any]) -> None:
    for words in (
        "tiny: random weights",
        "12 new tokens after a prompt of 4",
        "with cache",
        "without cache",
        "mean ± std (s)",
        "tokens/s",
        "allocated",
        "NVIDIA A5000",
        "6.24",
        "21.10",
        "NVIDIA T4",
        "61.00",
        "2.0 GB/s",
        "of that limit",
        "4,000 GFLOP/s (fp32 units)",
        "the same 12 tokens were drawn",
    ):
        assert words in text
    assert f"{found['ratio']:.1f}" in text


def check_json(found: dict[str, Any], tiny: Subject, bandwidth: Rate) -> None:
    assert found["benchmark"] == "cache"
    assert found["format"] == 1
    assert found["interrupted"] is False
    assert found["versions"]["kept"] == kept.__version__
    assert set(found["versions"]) == {"kept", "python", "torch"}
    assert found["machine"]["num_cores"] >= 1
    assert found["machine"]["threads"] >= 1
    assert found["model"]["name"] == "tiny"
    assert found["model"]["random_weights"] is True
    assert found["model"]["dtype"] == "float32"
    assert found["model"]["num_parameters"] == tiny.num_parameters
    assert found["model"]["cache_bytes_per_token"] == tiny.kv_bytes(1)
    assert found["model"]["config"]["num_kv_heads"] == 2
    assert found["settings"]["new_tokens"] == 12
    assert found["lengths"] == list(range(4, 16))
    assert len(found["cache_bytes"]) == 12
    assert found["bandwidth"][0]["best"] == bandwidth.best
    assert found["floor"]["bandwidth"] == bandwidth.best
    assert found["matrix_peak"]["best"] == found["prefill"]["peak"] == 4e12
    assert found["prefill"]["operations"] == tiny.pass_operations(found["prefill"]["tokens"])
    assert 0 < found["prefill"]["share"] < 1
    assert found["unmeasured"] == []
    assert found["tokens_agreeing"] == 12
    assert [p["ratio"] for p in found["published"]] == pytest.approx([3.38, 5.21], abs=0.01)
    sums = {}
    for kind in ("with_cache", "without_cache"):
        runs = found[kind]["runs"]
        assert [len(run["step_seconds"]) for run in runs] == [12, 12]
        assert all(run["complete"] for run in runs)
        sums[kind] = sum(sum(run["step_seconds"]) for run in runs)
        assert found[kind]["totals"]["mean"] == pytest.approx(sums[kind] / 2)
    assert found["ratio"] == pytest.approx(sums["without_cache"] / sums["with_cache"], rel=1e-6)


def test_options_reach_the_model(shaped: list[tuple[object, ...]]) -> None:
    options = ["--shape", "qwen3-0.6b", "--dtype", "bfloat16", "--seed", "3", "--device", "cpu"]
    done = runner.invoke(bench_app, ["cache", *SMALL, *options, "--no-without"])
    assert done.exit_code == 0, done.output
    assert shaped == [("qwen3-0.6b", "bfloat16", 3, "cpu", None, "auto")]
    assert "without cache" not in done.stdout
    assert "without (ms)" not in done.stdout


def test_a_checkpoint() -> None:
    done = runner.invoke(bench_app, ["cache", "--model", str(BUNDLED), "--new", "3", "--runs", "1"])
    assert done.exit_code == 0, done.output
    assert "bundled: " in done.stdout
    assert "random weights" not in done.stdout


@pytest.mark.usefixtures("shaped")
def test_ctrl_c_reports_what_there_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    press_ctrl_c(monkeypatch, at=17)
    files = ["--json", str(tmp_path / "a.json"), "--png", str(tmp_path / "a.png")]
    done = runner.invoke(bench_app, ["cache", *SMALL, *files])
    assert done.exit_code == 130
    assert "Interrupted: these are the steps measured so far." in done.stdout
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["interrupted"] is True
    assert found["ratio"] is None
    assert found["with_cache"]["totals"]["runs"] == 1
    assert found["without_cache"]["totals"] is None
    [run] = found["without_cache"]["runs"]
    assert run["complete"] is False
    assert len(run["step_seconds"]) == 5
    assert png_size(tmp_path / "a.png") == (1650, 720)


@pytest.mark.usefixtures("shaped")
def test_files_that_cannot_be_written_cost_no_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    files = ["--json", str(tmp_path / "a.json"), "--png", str(tmp_path / "a.png")]
    done = runner.invoke(bench_app, ["cache", *SMALL, *files])
    assert "mean ± std (s)" in done.stdout
    assert isinstance(done.exception, KeptError)
    assert exit_code(done.exception) == 1
    assert f"{tmp_path / 'a.json'} (No space left on device)" in str(done.exception)
    assert png_size(tmp_path / "a.png") == (1650, 720)


@pytest.mark.usefixtures("shaped")
def test_a_limit_that_cannot_be_measured_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Rate:
        raise BackendError("no memory for the probe's buffer")

    monkeypatch.setattr(machine, "measure_bandwidth", fail)
    done = runner.invoke(bench_app, ["cache", *SMALL])
    assert done.exit_code == 0, done.output
    assert "Not measured: read bandwidth: no memory for the probe's buffer" in done.stdout
    assert "GB/s" not in done.stdout


@pytest.mark.usefixtures("shaped")
def test_ctrl_c_before_anything_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(BenchProgress, "estimated", interrupt)
    done = runner.invoke(bench_app, ["cache", *SMALL])
    assert done.exit_code == 130
    assert "before anything was measured" in done.stderr
    assert done.stdout == ""


def press_ctrl_c(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    drawn = 0

    def count(self: BenchProgress, trace: object, seconds_expected: float) -> None:
        nonlocal drawn
        drawn += 1
        if drawn == at:
            raise KeyboardInterrupt

    monkeypatch.setattr(BenchProgress, "token_drawn", count)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "x", "--shape", "gpt2"], "not both"),
        (["--runs", "0"], "--runs"),
        (["--new", "0"], "--new"),
        (["--threads", "0"], "--threads"),
        (["--png", "no/such/folder/a.png"], "does not exist"),
        (["--json", "."], "is a folder"),
    ],
)
def test_wrong_options(options: list[str], words: str) -> None:
    done = runner.invoke(bench_app, ["cache", *options])
    assert done.exit_code == 2
    assert words in done.stderr


@pytest.mark.usefixtures("shaped")
def test_more_new_tokens_than_the_context() -> None:
    done = runner.invoke(bench_app, ["cache", "--new", "97", "--prompt-tokens", "1"])
    assert isinstance(done.exception, ContextLengthError)
    assert "context of 96; ask for 96 new tokens at most" in str(done.exception)


def test_unknown_shape() -> None:
    done = runner.invoke(bench_app, ["cache", "--shape", "gpt5"])
    assert isinstance(done.exception, OptionError)
    assert "'gpt5'; there are gpt2, gpt2-medium" in str(done.exception)


def test_a_shape_too_short_is_known_before_it_is_made() -> None:
    done = runner.invoke(bench_app, ["cache", "--shape", "llama-2-7b", "--new", "5000"])
    assert isinstance(done.exception, ContextLengthError)
    assert "context of 4096" in str(done.exception)


def test_unknown_dtype() -> None:
    done = runner.invoke(bench_app, ["cache", "--dtype", "int3"])
    assert isinstance(done.exception, OptionError)
    assert "int3" in str(done.exception)


def test_png_without_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(plot, "find_spec", lambda _: None)
    done = runner.invoke(bench_app, ["cache", "--png", str(tmp_path / "a.png")])
    assert isinstance(done.exception, BackendError)
    assert "pip install 'kept-llm[bench]'" in str(done.exception)


def test_help_names_every_shape_and_option() -> None:
    done = runner.invoke(bench_app, ["cache", "--help"])
    text = "".join(done.stdout.replace("│", "").split())  # as if it had not been wrapped
    assert done.exit_code == 0
    assert "--no-without" in text
    assert ",".join(SHAPES) in text
