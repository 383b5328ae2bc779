"""Texts that cannot go on, in whole models: the others are finished, and nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli.running import kept

from kept import LLM, GenerationError
from kept.text import IncrementalDetokenizer

from .zoo import make_hf

NO_TOKEN_LEFT: dict[str, Any] = {"max_new_tokens": 12, "no_repeat_ngram_size": 1}
PROMPTS = ["one two three", "tell me", "more"]
MESSAGES = [{"role": "user", "content": "tell me more"}]


def test_a_vocabulary_of_six(tmp_path: Path) -> None:
    make_hf("llama", vocab_size=6).save_pretrained(tmp_path)
    llm = LLM(tmp_path)
    for options in ({}, {"num_beams": 2}):
        with pytest.raises(GenerationError, match=r"^prompt 0: .*\(and 1 more\)") as caught:
            llm.generate([[1, 2, 3], [0, 1, 2, 3, 4, 5]], **NO_TOKEN_LEFT, **options)
        first, second = caught.value.completions
        assert sorted(first.token_ids) == [0, 4, 5]
        assert second.token_ids == ()
        assert first.finish_reason == second.finish_reason == "error"
    stream = llm.stream([1, 2, 3], **NO_TOKEN_LEFT)
    with pytest.raises(GenerationError) as caught:
        list(stream)
    assert caught.value.completions == [stream.completion]
    assert (
        stream.completion.token_ids
        == llm.generate([1, 2, 3], max_new_tokens=3, no_repeat_ngram_size=1)[0].token_ids
    )
    assert "no_repeat_ngram_size=1" in (stream.completion.error or "")


def spoil(patch: pytest.MonkeyPatch, llm: LLM, after: tuple[int, ...]) -> None:
    """Let the detokenizer fail at the last of these tokens where it comes after the others."""
    seen: dict[int, list[int]] = {}
    add = IncrementalDetokenizer.add

    def failing(self: IncrementalDetokenizer, token_ids: list[int]) -> str:
        own = seen.setdefault(id(self), [])
        own += token_ids
        if tuple(own[-len(after) :]) == after:
            raise UnicodeError("a token that has no text")
        return add(self, token_ids)

    patch.setattr(IncrementalDetokenizer, "add", failing)


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}], ids=str)
def test_a_text_that_cannot_be_spelled(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    options = {"max_new_tokens": 10, **options}
    whole = llm.generate(PROMPTS, **options)
    with monkeypatch.context() as patch:
        spoil(patch, llm, whole[1].token_ids[:10])
        with pytest.raises(GenerationError, match="no text") as caught:
            llm.generate(PROMPTS, **options)
    found = caught.value.completions
    assert [c.finish_reason for c in found] == ["length", "error", "length"]
    assert [found[0].text, found[2].text] == [whole[0].text, whole[2].text]
    if "num_beams" not in options:
        assert whole[1].text.startswith(found[1].text)
        assert found[1].text
    assert [c.text for c in llm.generate(PROMPTS, **options)] == [c.text for c in whole]


def test_a_stream_hands_out_what_is_certain_and_then_raises(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = "".join(llm.stream(PROMPTS[0], max_new_tokens=10))
    ids = llm.generate(PROMPTS[0], max_new_tokens=10)[0].token_ids
    pieces: list[str] = []
    with monkeypatch.context() as patch:
        spoil(patch, llm, ids[:6])
        stream = llm.stream(PROMPTS[0], max_new_tokens=10)
        with pytest.raises(GenerationError, match="no text"):
            pieces.extend(stream)  # and not list(stream), which would lose them
    assert stream.completion.finish_reason == "error"
    assert stream.completion.token_ids == ids[:6]
    assert "".join(pieces) == stream.completion.text
    assert whole.startswith("".join(pieces).rstrip("\ufffd"))
    assert pieces


def test_what_ends_a_program_in_a_callback_ends_its_texts(llm: LLM) -> None:
    def leave(done: int, total: int) -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        llm.generate(PROMPTS, max_new_tokens=10, progress=leave)
    assert not any(engine.has_work for engine in llm._engines._engines.values())


def test_a_chat_goes_on_after_an_error(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    llm.forget()
    whole = llm.chat(MESSAGES, max_new_tokens=10)
    llm.forget()
    with monkeypatch.context() as patch:
        spoil(patch, llm, whole.token_ids[:6])
        with pytest.raises(GenerationError) as caught:
            llm.chat(MESSAGES, max_new_tokens=10)
    [partial] = caught.value.completions
    assert partial.token_ids == whole.token_ids[:6]
    again = llm.chat(MESSAGES, max_new_tokens=10)
    assert again.token_ids == whole.token_ids
    assert again.cached_tokens > 0


def test_the_command_line_prints_what_there_is(
    folder: Path, llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    [first, second] = llm.generate(PROMPTS[:2], max_new_tokens=10)
    spoil(monkeypatch, llm, second.token_ids[:6])
    lines = ("generate", "-m", folder, "--lines", "--max-new-tokens", 10)
    result = kept(*lines, "--json", stdin="\n".join(PROMPTS[:2]))
    assert result.exit_code == 1
    assert "kept: a token that has no text; 1 of 2 texts were finished" in result.stderr
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [f["finish_reason"] for f in found] == ["length", "error"]
    assert [f["error"] for f in found] == [None, "a token that has no text"]
    assert found[0]["text"] == first.text
    result = kept(*lines, "--stats", stdin="\n".join(PROMPTS[:2]))
    assert result.exit_code == 1
    assert first.text in result.stdout
    assert "error" in result.stderr
    result = kept("generate", PROMPTS[1], "-m", folder, "--max-new-tokens", 10, "--no-echo")
    assert result.exit_code == 1
    assert "no text" in result.stderr
    shown = result.stdout.removesuffix("\n")
    assert shown
    assert second.text.startswith(shown.rstrip("\ufffd"))
