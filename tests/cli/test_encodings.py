"""Every door text comes in by: files, pipes and arguments in one encoding or another."""

import codecs
import io
from pathlib import Path

import pytest

from cli.running import kept
from kept import LLM, OptionError
from kept.cli.prompts import read_prompts

TEXT = "def café():  # 世界 🙂"
MARKED = {
    "utf-8": codecs.BOM_UTF8 + TEXT.encode(),
    "utf-16-le": codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
    "utf-16-be": codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    "utf-32-le": codecs.BOM_UTF32_LE + TEXT.encode("utf-32-le"),
    "utf-32-be": codecs.BOM_UTF32_BE + TEXT.encode("utf-32-be"),
}
WRONG = {
    "latin-1": (TEXT[:8].encode("latin-1"), "0xe9 at offset 7"),
    "utf-16 without a mark": ("def".encode("utf-16-le"), "has a zero at character 1"),
    "zeros": (b"good so far\0", "has a zero at character 11"),
    "half a character": (codecs.BOM_UTF16_LE + b"a\0b", "is not UTF-16-LE text"),
    "half a pair": (codecs.BOM_UTF16_LE + b"\0\xd8", "is not UTF-16-LE text"),
    "utf-8 behind a mark": (codecs.BOM_UTF8 + b"ab\xff", "0xff at offset 5"),
}


@pytest.mark.parametrize("encoding", MARKED)
def test_a_mark_says_the_encoding_and_is_no_text(
    tmp_path: Path, folder: Path, encoding: str
) -> None:
    file = tmp_path / "prompt.txt"
    file.write_bytes(MARKED[encoding])
    assert read_prompts(None, file, lines=False) == [TEXT]
    piped = kept("generate", "-m", folder, "--max-new-tokens", 1, stdin=MARKED[encoding])
    assert piped.exit_code == 0
    assert piped.stdout.startswith(TEXT)


@pytest.mark.parametrize("name", WRONG)
def test_other_encodings_than_they_say_are_named(tmp_path: Path, folder: Path, name: str) -> None:
    data, words = WRONG[name]
    file = tmp_path / "prompt.txt"
    file.write_bytes(data)
    for result in (
        kept("generate", "-m", folder, "--file", file),
        kept("generate", "-m", folder, stdin=data),
        kept("chat", "-m", folder, stdin=data),
        kept("bench", "quality", "--model", folder, "--text", file),
    ):
        assert result.exit_code == 2
        assert words in " ".join(result.stderr.split())


def test_a_mark_before_the_first_turn_is_no_text(folder: Path) -> None:
    marked = kept("chat", "-m", folder, "--max-new-tokens", 4, stdin=MARKED["utf-8"] + b"\n")
    plain = kept("chat", "-m", folder, "--max-new-tokens", 4, stdin=TEXT + "\n")
    assert marked.exit_code == plain.exit_code == 0
    assert marked.stdout == plain.stdout


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_where_files_end_them(tmp_path: Path, end: str) -> None:
    prompts = ["one\fa page on", "two\u2028a separator on", "three\x85\v\x1c"]
    file = tmp_path / "prompts.txt"
    file.write_bytes(end.join([*prompts, ""]).encode())
    assert read_prompts(None, file, lines=True) == prompts


def test_half_a_surrogate_pair_is_refused_everywhere(folder: Path) -> None:
    llm = LLM(folder)
    half = "a\ud800"
    message = [{"role": "user", "content": half}]
    for call in (
        lambda: llm.generate(half),
        lambda: llm.generate([half, "b"]),
        lambda: llm.generate("b", stop_strings=half),
        lambda: llm.chat(message),
        lambda: llm.chat([{"role": "system", "content": half}, {"role": "user", "content": "b"}]),
        lambda: llm.stream(half),
    ):
        with pytest.raises(OptionError, match="valid Unicode"):
            call()
    for arguments in (["a\udcff"], ["a", "--stop", "\udcff"]):
        assert kept("generate", *arguments, "-m", folder).exit_code == 2
    assert kept("chat", "--system", "\udcff", "-m", folder, stdin="a\n").exit_code == 2


def test_bytes_are_no_prompt(folder: Path) -> None:
    with pytest.raises(OptionError, match="neither"):
        LLM(folder).generate(b"abc")  # type: ignore[arg-type]


def test_a_file_without_end_is_no_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kept.cli.prompts._MAX_BYTES", 8)
    file = tmp_path / "prompt.txt"
    file.write_bytes(b"12345678")
    assert read_prompts(None, file, lines=False) == ["12345678"]
    file.write_bytes(b"123456789")
    with pytest.raises(OptionError, match="holds more than 8 bytes"):
        read_prompts(None, file, lines=False)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"123456789")))
    with pytest.raises(OptionError, match="stdin holds more than 8 bytes"):
        read_prompts("-", None, lines=False)


def test_a_line_without_end_is_no_turn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kept.cli.prompts._MAX_BYTES", 8)
    few = ("chat", "-m", folder, "--max-new-tokens", 1)
    assert kept(*few, stdin=b"1234567\n12345678").exit_code == 0
    result = kept(*few, stdin=b"1234567\n123456789")
    assert result.exit_code == 2
    assert "line 2 of stdin holds more than 8 bytes" in " ".join(result.stderr.split())
