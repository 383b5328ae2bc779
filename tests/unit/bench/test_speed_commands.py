"""`kept bench decode` and `prefill` as a user meets them: tables, JSON, PNG, Ctrl-C, options."""

import json
from pathlib import Path

import pytest
from png_file import png_size
from typer.testing import CliRunner

import kept
from kept import machine
from kept.bench.shapes import SHAPES
from kept.bench.speed_progress import SpeedProgress
from kept.bench.subject import Subject
from kept.cli.bench import bench_app
from kept.errors import BackendError, ContextLengthError, OptionError
from kept.machine import Rate

runner = CliRunner(env={"NO_COLOR": "1", "COLUMNS": "120"})
DECODE = ["decode", "--new", "6", "--prompt-tokens", "4", "--runs", "2"]
PREFILL = ["prefill", "--prompt-tokens", "3,17", "--runs", "2"]
BUNDLED = Path(kept.__file__).parent / "bundled"

pytestmark = pytest.mark.usefixtures("bandwidth")


def test_decode(shaped: list[tuple[object, ...]], tmp_path: Path, tiny: Subject) -> None:
    files = ["--json", str(tmp_path / "a.json"), "--png", str(tmp_path / "a.png")]
    done = runner.invoke(bench_app, [*DECODE, "--batch", "2", *files])
    assert done.exit_code == 0, done.output
    # What is measured when nothing is named.
    assert shaped == [("gpt2", None, 0, None, None, "auto")]
    for words in (
        "tiny: random weights",
        "2 sequences; prompt of 4, 6 new tokens",
        "of the limit",
        "Read bandwidth in the same run: 2.0 GB/s",
        "Matrix peak in the same run: 4,000 GFLOP/s (fp32 units)",
        "Outside the kernels: ",
    ):
        assert words in done.stdout
    assert "This will take about" in done.stderr
    assert "run 2: prompt of 4 in" in done.stderr
    assert png_size(tmp_path / "a.png") == (1200, 840)
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["benchmark"] == "decode"
    assert found["format"] == 1
    assert found["settings"]["batch"] == 2
    assert found["model"]["num_parameters"] == tiny.num_parameters
    assert found["kv_bytes_per_token"] == tiny.kv_bytes(1)
    assert [len(found[name]) for name in ("bandwidth", "matrix_peak")] == [2, 2]
    steps = [s for run in found["runs"] for s in run["step_seconds"]]
    assert [len(run["step_seconds"]) for run in found["runs"]] == [5, 5]
    assert found["runs"][0]["step_tokens"] == [2] * 5
    assert found["runs"][0]["step_lengths"] == [2 * n for n in range(5, 10)]
    total = found["decode"]["total"]
    assert total["tokens_per_second"] == pytest.approx(2 * len(steps) / sum(steps))
    assert 0 < total["share"] < 1
    assert 0 < total["outside_share"] < 1


def test_prefill(shaped: list[tuple[object, ...]], tmp_path: Path) -> None:
    options = ["--shape", "qwen3-0.6b", "--dtype", "bfloat16", "--seed", "3", "--device", "cpu"]
    files = ["--json", str(tmp_path / "a.json"), "--png", str(tmp_path / "a.png")]
    done = runner.invoke(bench_app, [*PREFILL, *options, "--quantize", "int8", *files])
    assert done.exit_code == 0, done.output
    assert shaped == [("qwen3-0.6b", "bfloat16", 3, "cpu", "int8", "auto")]
    assert "prompt of 3, 17" in done.stdout
    assert "of the peak" in done.stdout
    assert "Decode" not in done.stdout
    assert png_size(tmp_path / "a.png") == (1200, 840)
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["benchmark"] == "prefill"
    assert found["decode"] is None
    assert [p["tokens"] for p in found["prompts"]] == [3, 17]
    assert [run["prompt_tokens"] for run in found["runs"]] == [3, 17, 3, 17]


@pytest.mark.parametrize("command", ["decode", "prefill"])
def test_a_checkpoint(command: str) -> None:
    options = ["--model", str(BUNDLED), "--prompt-tokens", "3", "--runs", "1"]
    done = runner.invoke(bench_app, [command, *options])
    assert done.exit_code == 0, done.output
    assert "bundled: " in done.stdout
    assert "random weights" not in done.stdout


@pytest.mark.usefixtures("shaped")
def test_ctrl_c_reports_what_there_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    press_ctrl_c(monkeypatch, at=9)
    done = runner.invoke(bench_app, [*DECODE, "--json", str(tmp_path / "a.json")])
    assert done.exit_code == 130
    assert "Interrupted: this is what was measured so far." in done.stdout
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["interrupted"] is True
    assert [len(run["step_seconds"]) for run in found["runs"]] == [5, 2]


@pytest.mark.usefixtures("shaped")
def test_ctrl_c_before_anything_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    press_ctrl_c(monkeypatch, at=0)
    done = runner.invoke(bench_app, DECODE)
    assert done.exit_code == 130
    assert "before anything was measured" in done.stderr
    assert done.stdout == ""


def press_ctrl_c(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """At this step; at the beginning for 0."""
    steps = 0

    def expected(*_: object) -> None:
        if at == 0:
            raise KeyboardInterrupt

    def spent(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == at:
            raise KeyboardInterrupt

    monkeypatch.setattr(SpeedProgress, "expected", expected)
    monkeypatch.setattr(SpeedProgress, "spent", spent)


@pytest.mark.usefixtures("shaped")
def test_limits_that_cannot_be_measured_are_named_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> Rate:
        raise BackendError("no memory for the probe's buffer")

    monkeypatch.setattr(machine, "measure_bandwidth", fail)
    monkeypatch.setattr(machine, "measure_matrix_peak", fail)
    done = runner.invoke(bench_app, [*DECODE, "--png", str(tmp_path / "a.png")])
    assert done.exit_code == 0, done.output
    assert done.stdout.count("Not measured: read bandwidth: no memory for the probe") == 1
    assert done.stdout.count("Not measured: matrix peak: no memory for the probe") == 1
    assert "GB/s" not in done.stdout
    assert png_size(tmp_path / "a.png") == (1200, 840)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["decode", "--model", "x", "--shape", "gpt2"], "not both"),
        (["decode", "--new", "1"], "--new"),
        (["decode", "--batch", "0"], "--batch"),
        (["prefill", "--prompt-tokens", "12,many"], "is not a list of whole numbers"),
        (["prefill", "--runs", "0"], "--runs"),
        (["prefill", "--png", "no/such/folder/a.png"], "does not exist"),
    ],
)
def test_wrong_options(options: list[str], words: str) -> None:
    done = runner.invoke(bench_app, options)
    assert done.exit_code == 2
    assert words in done.stderr


def test_a_shape_too_short_is_known_before_it_is_made() -> None:
    done = runner.invoke(bench_app, ["prefill", "--shape", "gpt2", "--prompt-tokens", "1025"])
    assert isinstance(done.exception, ContextLengthError)
    assert "context of 1024" in str(done.exception)


def test_a_prompt_of_nothing() -> None:
    done = runner.invoke(bench_app, ["prefill", "--prompt-tokens", "0"])
    assert isinstance(done.exception, OptionError)
    assert "prompt_tokens=0: give at least 1" in str(done.exception)


@pytest.mark.parametrize("command", ["decode", "prefill"])
def test_help_names_every_shape_and_option(command: str) -> None:
    done = runner.invoke(bench_app, [command, "--help"])
    text = "".join(done.stdout.replace("│", "").split())  # as if it had not been wrapped
    assert done.exit_code == 0
    assert ",".join(SHAPES) in text
    for option in ("--quantize", "--kv-dtype", "--threads", "--json", "--png"):
        assert option in text
