"""Each error: its code, its message on stderr, nothing on stdout, no traceback."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import Result

from cli.running import kept
from kept import LLM
from kept.errors import SamplingError

TWO, ONE = 2, 1


def said(result: Result, code: int) -> str:
    """The message of a command that failed with `code`."""
    assert result.exit_code == code, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a", "--file", "b"], ["prompt", "--file", "leave one"]),
        (["a", "--lines"], ["--lines", "argument"]),
        (["--file", "nowhere.txt"], ["nowhere.txt", "No such file"]),
        ([], ["no prompt", "--file", "pipe"]),
        (["a", "--logprobs", "1"], ["--logprobs", "--json"]),
        (["a", "--max-new-tokens", "0"], ["max_new_tokens=0", "1 or more"]),
        (["a", "--max-new-tokens", "many"], ["--max-new-tokens", "integer"]),
        (["a", "--early-stopping", "maybe"], ["maybe", "never"]),
        (["a", "--no-such-flag"], ["--no-such-flag"]),
        (["a\udcff"], ["the prompt", "UTF-8"]),
    ],
)
def test_wrong_usage_is_2(arguments: list[str], words: list[str]) -> None:
    message = said(kept("generate", *arguments, stdin=""), TWO)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--top-k", "5", "--no-do-sample"], ["top_k=5", "do_sample=False"]),
        (["--no-cache", "--cache-implementation", "static"], ["use_cache", "static"]),
        (["--slide-hop", "4"], ["slide_hop=4", "overflow"]),
        (["--dtype", "int4"], ["int4", "bfloat16"]),
        (["--device", "toaster"], ["toaster"]),
        (["--revision", "main"], ["revision", "hub ids"]),
    ],
)
def test_options_that_contradict_are_2(
    folder: Path, arguments: list[str], words: list[str]
) -> None:
    message = said(kept("generate", "a", "-m", folder, *arguments), TWO)
    assert all(word in message for word in words), message


def test_bytes_that_are_no_text() -> None:
    message = said(kept("generate", stdin=b"good so far \xff\x00"), TWO)
    assert "stdin is not UTF-8" in message
    assert "0xff at offset 12" in message


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "binary"
    file.write_bytes(b"\x80")
    assert "binary is not UTF-8" in said(kept("generate", "--file", file), TWO)


def test_lines_that_are_all_blank() -> None:
    assert "every line is blank" in said(kept("generate", "--lines", "-", stdin="\n \n"), TWO)


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    assert "no folder" in said(kept("generate", "a", "-m", tmp_path / "nothing"), ONE)


def test_a_model_kept_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    for command in (["generate", "a", "-m", tmp_path], ["info", tmp_path], ["plan", tmp_path]):
        assert "encoder" in said(kept(*command), ONE)


def test_a_prompt_beyond_the_context(folder: Path) -> None:
    result = kept("generate", "-m", folder, stdin="word " * 20_000)
    assert result.exit_code == ONE
    assert "context is 192" in result.stderr


def test_logits_nothing_can_be_drawn_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: LLM, *_: object, **__: object) -> None:
        raise SamplingError("the logits are NaN")

    monkeypatch.setattr(LLM, "stream", broken)
    assert "kept: the logits are NaN" in said(kept("generate", "a", "-m", folder), ONE)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        torch.OutOfMemoryError("CUDA out of memory"),
    ],
)
def test_no_memory(folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def full(self: LLM, *_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(LLM, "stream", full)
    assert "kept plan" in said(kept("generate", "a", "-m", folder), ONE)


def test_a_bug_is_not_hidden(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: LLM, *_: object, **__: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(LLM, "stream", broken)
    assert isinstance(kept("generate", "a", "-m", folder).exception, RuntimeError)


def test_debug_shows_the_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["generate", "a", "-m", tmp_path / "nothing"]
    shown = kept("--debug", *command)
    assert shown.exit_code == ONE
    assert "Traceback" in shown.stderr
    monkeypatch.setenv("KEPT_DEBUG", "1")
    assert "Traceback" in kept(*command).stderr


def test_a_chat_without_a_template(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "tokenizer_config.json").unlink()
    assert "no chat template" in said(kept("chat", "-m", tmp_path, stdin="hello\n"), ONE)
