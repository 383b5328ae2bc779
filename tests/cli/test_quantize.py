"""`kept quantize`, and --quantize where a model is loaded."""

import json
from pathlib import Path

import pytest

from cli.running import kept
from kept import machine
from kept.ops.quantize import QUANTIZED_FORMATS

formats = pytest.mark.parametrize("format", QUANTIZED_FORMATS)
packs = pytest.mark.skipif(not machine.NATIVE_AVAILABLE, reason="the native module packs")


@packs
@formats
def test_a_quantized_folder_writes_the_same_text(folder: Path, format: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    written = kept("quantize", folder, out, "--format", format)
    assert written.exit_code == 0, written.stderr
    assert f"{format}, " in written.stdout
    options = ("def add", "--max-new-tokens", 8)
    at_load = kept("generate", *options, "-m", folder, "--quantize", format)
    stored = kept("generate", *options, "-m", out)
    assert stored.exit_code == at_load.exit_code == 0, at_load.stderr + stored.stderr
    assert stored.stdout == at_load.stdout
    found = json.loads(kept("info", out, "--json").stdout)["model"]
    original = json.loads(kept("info", folder, "--json").stdout)["model"]
    assert found["quantized"] == format
    assert found["weight_bytes"] == original["quantized_weight_bytes"][format]
    assert f"quantized to {format}" in kept("info", out).stdout
    rows = json.loads(kept("plan", out, "--json").stdout)["rows"]
    assert {(row["dtype"], row["weight_bytes"]) for row in rows} == {
        (format, found["weight_bytes"])
    }
    assert kept("plan", out, "--dtype", "float32").exit_code == 2


@packs
def test_the_reasons_it_gives(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert kept("quantize", folder, out).exit_code == 0
    again = kept("quantize", folder, out)
    assert again.exit_code == 2
    assert "is not empty" in again.stderr
    assert "--force" in again.stderr
    assert kept("quantize", folder, out, "--force").exit_code == 0
    unnamed = kept("quantize", folder, "", "--force")
    assert unnamed.exit_code == 2
    assert "the name of the folder to write is empty" in unnamed.stderr
    twice = kept("generate", "x", "-m", out, "--quantize", "int8")
    assert twice.exit_code == 2
    assert "quantize='int8', but" in twice.stderr
    assert "is quantized to int8 already" in twice.stderr


def test_chat_takes_it_too(folder: Path) -> None:
    options = ("-m", folder, "--quantize", "int8", "--max-new-tokens", 4)
    result = kept("chat", *options, stdin="hello\n")
    assert result.exit_code == 0, result.stderr
    assert kept("generate", "x", "--quantize", "int3").exit_code == 2
