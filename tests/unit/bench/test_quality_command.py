"""`kept bench quality` as a user meets it: table, JSON, Ctrl-C and wrong options."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import kept
from kept.bench import quality, standard_library
from kept.cli.bench import bench_app
from kept.errors import CheckpointNotFoundError, KeptError, OptionError

runner = CliRunner(env={"NO_COLOR": "1", "COLUMNS": "80"})
BUNDLED = Path(kept.__file__).parent / "bundled"
SOURCE = Path(kept.__file__).parent


def text_of(output: str) -> str:
    return " ".join(output.split())


def test_table_and_json(tmp_path: Path) -> None:
    texts = ["--text", str(SOURCE / "batch.py"), "--text", str(SOURCE / "format.py")]
    out = ["--json", str(tmp_path / "a.json")]
    done = runner.invoke(bench_app, ["quality", *texts, "--tokens", "150", *out])
    assert done.exit_code == 0, done.output
    assert "bundled: 5.2 M parameters; 150 tokens of 2 files" in text_of(done.stdout)
    for line in ("│ fp32 │ 32 │", "│ bf16 │ 16 │", "│ int8 │ 8 │", "│ int4 │ 4.5 │"):
        assert line in text_of(done.stdout)
    assert "windows of at most 2,048 tokens" in text_of(done.stdout)
    assert "…" not in done.stdout  # nothing was too wide for an ordinary terminal
    found = json.loads((tmp_path / "a.json").read_text())
    assert (found["benchmark"], found["format"], found["interrupted"]) == ("quality", 1, False)
    assert found["model"]["num_parameters"] == 5180672
    assert found["backend"] in ("native", "reference")
    assert found["num_windows"] == found["num_windows_scored"] == 1
    assert list(found["weights"]) == ["fp32", "bf16", "int8", "int4"]
    assert list(found["kv_dtypes"]) == ["bfloat16", "int8", "k8v4", "int4"]
    for name, score in found["kv_dtypes"].items():
        assert f"│ {name} │ {score['bytes_per_token']:,} │" in text_of(done.stdout)
    for name, score in (*found["weights"].items(), *found["kv_dtypes"].items()):
        assert score["num_tokens"] == 150
        assert f"{score['perplexity']:.3f}" in done.stdout
        if name != "fp32":
            assert f"{100 * score['change']:+.2f} ±" in done.stdout
            assert score["change_error"] > 0
            assert 0 < score["divergence"] < 0.2
            assert 0.5 < score["agreement"] <= 1


def test_the_held_out_modules_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    module = standard_library.Module("socket.py", "import os\n" * 9)
    monkeypatch.setattr(standard_library, "read_modules", lambda root: [module])
    options = ["--model", str(BUNDLED), "--formats", "int8", "--kv-dtypes", ""]
    done = runner.invoke(bench_app, ["quality", *options])
    assert done.exit_code == 0, done.output
    assert "tokens of 1 held-out modules of Python 3." in text_of(done.stdout)
    assert "fp32" in done.stdout
    assert "int8" in done.stdout
    assert "int4" not in done.stdout


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Presses Ctrl-C once a window of this index is to be scored."""

    def at(index: int) -> None:
        begun = 0
        predictions = quality._predictions

        def count(*arguments: Any) -> Any:
            nonlocal begun
            if begun == 2 * index:  # two models score each window
                raise KeyboardInterrupt
            begun += 1
            return predictions(*arguments)

        monkeypatch.setattr(quality, "_predictions", count)

    return at


def test_ctrl_c_reports_what_there_is(interrupt: Callable[[int], None], tmp_path: Path) -> None:
    interrupt(1)
    (tmp_path / "a.txt").write_text("x = 1\n" * 9)
    (tmp_path / "b.txt").write_text("y = 2\n" * 9)
    texts = ["--text", str(tmp_path / "a.txt"), "--text", str(tmp_path / "b.txt")]
    out = ["--json", str(tmp_path / "a.json")]
    formats = ["--formats", "fp32,int4", "--kv-dtypes", ""]
    done = runner.invoke(bench_app, ["quality", *texts, *formats, *out])
    assert done.exit_code == 130
    assert "Interrupted: 1 of 2 windows were scored." in done.stdout
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["interrupted"] is True
    assert found["num_windows_scored"] == 1


def test_ctrl_c_before_anything_was_measured(interrupt: Callable[[int], None]) -> None:
    interrupt(0)
    done = runner.invoke(bench_app, ["quality", "--text", str(SOURCE / "batch.py")])
    assert done.exit_code == 130
    assert "before anything was measured" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--formats", "int4,int3,fp8"], "'fp8', 'int3' is not one of fp32, bf16, int8, int4"),
        (
            ["--kv-dtypes", "int8,int5"],
            "'int5' is not one of float32, bfloat16, float16, int8,",
        ),
        (["--tokens", "0"], "--tokens"),
        (["--json", "no/such/folder/a.json"], "does not exist"),
        (["--json", "."], "is a folder"),
    ],
)
def test_wrong_options(options: list[str], words: str) -> None:
    done = runner.invoke(bench_app, ["quality", *options])
    assert done.exit_code == 2
    assert words in text_of(done.stderr.replace("│", ""))


def test_texts_that_cannot_be_scored(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("caf\u00e9".encode("latin-1"))
    (tmp_path / "empty.txt").write_bytes(b"")
    for name, words in {
        "missing.txt": "--text .*missing.txt cannot be read: No such file",
        "latin.txt": "not UTF-8 text",
        "empty.txt": "no token that could be scored",
    }.items():
        done = runner.invoke(bench_app, ["quality", "--text", str(tmp_path / name)])
        assert isinstance(done.exception, OptionError)
        assert done.exception.args
        with pytest.raises(OptionError, match=words):
            raise done.exception


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(BUNDLED / name)
    options = ["--model", str(tmp_path), "--text", str(SOURCE / "batch.py")]
    done = runner.invoke(bench_app, ["quality", *options])
    assert isinstance(done.exception, CheckpointNotFoundError)
    assert "has no tokenizer.json" in str(done.exception)


def test_a_file_that_cannot_be_written_costs_no_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "a.txt").write_text("x = 1\n")
    monkeypatch.setattr(Path, "write_text", fail)
    options = ["--text", str(tmp_path / "a.txt"), "--formats", "fp32", "--kv-dtypes", ""]
    done = runner.invoke(bench_app, ["quality", *options, "--json", str(tmp_path / "a.json")])
    assert "perplexity" in done.stdout
    assert isinstance(done.exception, KeptError)
    assert "(No space left on device); the tables were printed" in str(done.exception)
