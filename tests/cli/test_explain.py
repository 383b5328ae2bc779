"""`kept explain` as a user meets it: tables, files, and what it refuses."""

import json
import unicodedata
from pathlib import Path

import pytest

import kept.cli.bench_files
from cli.running import kept as run
from kept.errors import KeptError

PROMPT = "def add(a, b):"


def explain(folder: Path, *arguments: object, prompt: str = PROMPT):  # type: ignore[no-untyped-def]
    return run("explain", prompt, "--model", folder, "--max-new-tokens", 4, *arguments)


def width_of(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)


def squeezed(text: str) -> str:
    return " ".join(text.replace("\u2502", "").split())


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_tables_fit_the_terminal(
    folder: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    result = explain(folder, "--window", 5, "--sinks", 2, "--budget", 6)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert max(map(width_of, lines)) <= columns
    shown = squeezed(result.stdout)
    for words in ("Step by step", "Attention, layer 1, mean of all heads", "window 5", "int4"):
        assert words in shown
    assert "heavy hitters 6: the mass lost; # kept, . gone" in shown
    assert "\u2423b):" in shown or "\u2423b" in shown


def test_a_prompt_longer_than_a_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    result = explain(folder, prompt="def add(a, b):\n    return a + b\n" * 3)
    assert result.exit_code == 0, result.output
    assert max(map(width_of, result.stdout.splitlines())) <= 40
    assert "0-1, " in result.stdout  # kept tokens as numbers, where a map has no room


def test_a_head_and_a_layer(folder: Path) -> None:
    result = explain(folder, "--layer", 0, "--head", 3)
    assert "Attention, layer 0, head 3" in result.stdout


def test_files(folder: Path, tmp_path: Path) -> None:
    page, record = tmp_path / "a.html", tmp_path / "a.json"
    result = explain(folder, "--html", page, "--json", record, "--kv-dtype", "int8", "--seed", 5)
    assert result.exit_code == 0, result.output
    found = json.loads(record.read_text(encoding="utf-8"))
    assert (found["record"], found["format"]) == ("explain", 1)
    assert found["settings"]["seed"] == 5
    assert [codec["name"] for codec in found["codecs"]] == ["int8"]
    assert [shape["num_kv_heads"] for shape in found["model"]["kv_shapes"]] == [2, 2]
    assert len(found["steps"]) <= 4
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    embedded = text.split('id="record">', 1)[1].split("</script>", 1)[0]
    assert json.loads(embedded) == found


def test_a_file_that_is_there_is_kept(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "a.html"
    page.write_text("mine")
    refused = explain(folder, "--html", page)
    assert refused.exit_code == 2
    assert "is there already; give another file, or --force" in squeezed(refused.stderr)
    assert (page.read_text(), refused.stdout) == ("mine", "")
    assert explain(folder, "--html", page, "--force").exit_code == 0
    assert "mine" not in page.read_text(encoding="utf-8")[:10]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--html", "no/such/folder/a.html"], "does not exist"),
        (["--json", "."], "is a folder"),
        (["--html", "a.html", "--json", "a.html"], "give two files"),
        (["--layer", "2"], "--layer 2: this model has 2 layers; give one from 0 to 1"),
        (["--head", "4"], "--head 4: this model has 4 heads"),
        (["--window", "0"], "--window 0: give at least 1"),
        (["--max-new-tokens", "500"], "--max-new-tokens of at most 128 together"),
        (["--seed", "-1"], "seed"),
        (["--kv-dtype", "int3"], "int3"),
    ],
)
def test_wrong_options(folder: Path, options: list[str], words: str) -> None:
    result = explain(folder, *options)
    assert result.exit_code == 2
    assert words in squeezed(result.stderr)
    assert result.stdout == ""


def test_a_prompt_from_a_pipe(folder: Path) -> None:
    result = run("explain", "-", "--model", folder, "--max-new-tokens", 1, stdin="abc\n")
    assert result.exit_code == 0, result.output
    assert "tokens given: abc" in result.stdout


def test_the_bundled_model_needs_no_prompt() -> None:
    result = run("explain", "--max-new-tokens", "2", "--kv-dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    assert "for\u2423i\u2423in\u2423range(len(items)):\u21b5" in result.stdout


def test_a_prompt_is_text_to_the_terminal(folder: Path) -> None:
    result = explain(folder, prompt="[bold]a[/bold] \x1b[2J:smile:")
    assert result.exit_code == 0, result.output
    assert "[bold]a[/bold]\u2423\\x1b[2J:smile:" in result.stdout
    assert "\x1b" not in result.stdout


def test_a_file_that_cannot_be_written_costs_no_table(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    result = explain(folder, "--html", tmp_path / "a.html")
    assert result.exit_code == 1
    assert "Step by step" in result.stdout
    assert "No space left on device" in result.stderr
    with pytest.raises(KeptError, match="run it again"):
        kept.cli.bench_files.write_files([(tmp_path / "b", lambda path: path.write_text("x"))])
