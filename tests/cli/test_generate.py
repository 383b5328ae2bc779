"""`kept generate`: prompts in, text and reports out."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from cli.running import kept
from kept import LLM

PROMPT = "def add(a"


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return LLM(folder)


@pytest.fixture(scope="module")
def text(llm: LLM) -> str:
    """The greedy continuation, 12 tokens."""
    return llm.generate(PROMPT, max_new_tokens=12)[0].text


def objects(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_the_prompt_and_what_continues_it(folder: Path, text: str) -> None:
    result = kept("generate", PROMPT, "-m", folder, "--max-new-tokens", 12)
    assert result.exit_code == 0
    assert result.stdout == (PROMPT + text).removesuffix("\n") + "\n"
    assert result.stderr == ""


def test_only_what_continues_it(folder: Path, text: str) -> None:
    result = kept("generate", PROMPT, "-m", folder, "--max-new-tokens", 12, "--no-echo")
    assert result.stdout == text.removesuffix("\n") + "\n"


@pytest.mark.parametrize("dash", [[], ["-"]])
def test_from_stdin_less_the_last_line_end(folder: Path, text: str, dash: list[str]) -> None:
    result = kept("generate", *dash, "-m", folder, "--max-new-tokens=12", stdin=PROMPT + "\n")
    assert result.stdout == (PROMPT + text).removesuffix("\n") + "\n"


def test_from_a_file(folder: Path, text: str, tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_bytes(PROMPT.encode() + b"\r\n")
    result = kept("generate", "--file", file, "-m", folder, "--max-new-tokens", 12)
    assert result.stdout == (PROMPT + text).removesuffix("\n") + "\n"


def test_a_prompt_a_line(folder: Path, llm: LLM) -> None:
    result = kept(
        *("generate", "--lines", "-", "-m", folder, "--max-new-tokens", 6, "--json"),
        stdin="The quick\n\n  \ndef\n",
    )
    found = objects(result.stdout)
    assert [(o["prompt"], o["prompt_index"]) for o in found] == [("The quick", 0), ("def", 1)]
    expected = llm.generate(["The quick", "def"], max_new_tokens=6)
    assert [o["text"] for o in found] == [c.text for c in expected]


def test_several_texts_are_told_apart(folder: Path, llm: LLM) -> None:
    options: dict[str, Any] = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 5}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    result = kept("generate", PROMPT, "-m", folder, *flags)
    texts = [c.text.removesuffix("\n") for c in llm.generate(PROMPT, **options)]
    assert result.stdout == "".join(
        f"--- text {i} of 2 ---\n{PROMPT}{text}\n" for i, text in enumerate(texts, 1)
    )


def test_json_has_everything(folder: Path, llm: LLM) -> None:
    result = kept(
        *("generate", PROMPT, "-m", folder, "--max-new-tokens", 4, "--json"),
        *("--logprobs", 2, "--seed", 5),
    )
    assert result.exit_code == 0
    [found] = objects(result.stdout)
    [expected] = llm.generate(PROMPT, max_new_tokens=4, logprobs=2)
    assert found.keys() == {"prompt", "new_tokens", *(x.name for x in fields(expected))}
    assert found["text"] == expected.text
    assert found["token_ids"] == list(expected.token_ids)
    assert found["finish_reason"] == "length"
    assert (found["new_tokens"], found["cached_tokens"], found["seed"]) == (4, 0, 5)
    assert found["prompt_tokens"] == expected.prompt_tokens
    assert found["cache_bytes"] == expected.cache_bytes
    assert found["total_time"] >= found["time_to_first_token"] > 0
    assert [step["token_id"] for step in found["logprobs"]] == found["token_ids"]
    assert "".join(step["token"] for step in found["logprobs"]) == expected.text
    assert all(len(step["top"]) == 2 and step["logprob"] <= 0 for step in found["logprobs"])


def test_stats_go_to_stderr(folder: Path, text: str) -> None:
    plain = kept("generate", PROMPT, "-m", folder, "--max-new-tokens", 12)
    result = kept("generate", PROMPT, "-m", folder, "--max-new-tokens", 12, "--stats")
    assert result.stdout == plain.stdout
    words = ("loading", "0 cached", "12 tokens", "length", "first token", "tokens/s", "KiB", "seed")
    for word in words:
        assert word in result.stderr


def test_stats_of_several(folder: Path) -> None:
    result = kept(
        *("generate", "--lines", "-m", folder, "--max-new-tokens", 3, "--stats"), stdin="a\nb\n"
    )
    assert result.exit_code == 0
    assert len([line for line in result.stderr.splitlines() if "length" in line]) == 2


def test_a_stop_string_ends_the_text(folder: Path, text: str) -> None:
    stop = text[4:6]
    result = kept("generate", PROMPT, "-m", folder, "--stop-strings", stop, "--json")
    [found] = objects(result.stdout)
    assert found["finish_reason"] == "stop"
    assert found["text"] == text[: text.index(stop)]


def test_without_the_cache_the_text_is_the_same(folder: Path, text: str) -> None:
    result = kept("generate", PROMPT, "-m", folder, "--max-new-tokens", 12, "--no-cache", "--json")
    [found] = objects(result.stdout)
    assert (found["text"], found["cache_bytes"]) == (text, 0)


def test_an_empty_prompt_begins_where_texts_begin(folder: Path) -> None:
    result = kept("generate", "", "-m", folder, "--max-new-tokens", 3, "--json")
    [found] = objects(result.stdout)
    assert found["prompt_tokens"] == 1


@pytest.mark.parametrize("flag", ["--stats", "--json"])
def test_ctrl_c_keeps_the_text_so_far(
    folder: Path, text: str, interrupt_after: Callable[[int], None], flag: str
) -> None:
    interrupt_after(6)
    result = kept("generate", PROMPT, "-m", folder, "--no-echo", flag)
    assert result.exit_code == 130
    written = objects(result.stdout)[0]["text"] if flag == "--json" else result.stdout[:-1]
    assert written.rstrip("\ufffd")  # the withheld part of a character is given out as such
    assert text.startswith(written.rstrip("\ufffd"))
    assert result.stdout.endswith("\n")
    assert "interrupted" in (result.stdout if flag == "--json" else result.stderr)


def test_ctrl_c_keeps_every_text(folder: Path, interrupt_after: Callable[[int], None]) -> None:
    interrupt_after(3)
    result = kept("generate", "--lines", "-m", folder, stdin="a\nb\n")
    assert result.exit_code == 130
    assert "--- prompt 2 of 2 ---\nb" in result.stdout
