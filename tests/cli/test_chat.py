"""`kept chat` through a pipe, and its session."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cli.running import kept
from kept import LLM, CacheOptions, Completion, SamplingParams
from kept.cli.session import Session

FEW = ("--max-new-tokens", 6, "--ignore-eos")


@pytest.fixture
def llm(folder: Path) -> LLM:
    return LLM(folder)


@pytest.fixture
def session(llm: LLM) -> Session:
    return Session(
        llm, SamplingParams(max_new_tokens=6, ignore_eos=True), CacheOptions(), "Be brief."
    )


def write_nothing(_: str) -> None:
    """For when the text is not looked at."""


def ask(session: Session, text: str, say: Callable[[str], None] = write_nothing) -> Completion:
    """Of a model that does not think."""
    return session.ask(text, say, pytest.fail)


def test_every_line_is_a_turn(folder: Path, llm: LLM) -> None:
    result = kept("chat", "-m", folder, *FEW, "--system", "Be brief.", stdin="Hello\n\nMore\n")
    assert result.exit_code == 0
    messages = [{"role": "system", "content": "Be brief."}]
    answers = ""
    for question in ("Hello", "More"):
        messages.append({"role": "user", "content": question})
        answer = llm.chat(messages, max_new_tokens=6, ignore_eos=True).text
        messages.append({"role": "assistant", "content": answer})
        answers += answer.removesuffix("\n") + "\n"
    assert result.stdout == answers
    assert result.stderr.count("cut after 6 tokens") == 2


def test_commands(folder: Path) -> None:
    lines = "/help\n/stats\n/undo\nHello\n/undo\n/reset\n/quit\nnever read\n"
    result = kept("chat", "-m", folder, *FEW, stdin=lines)
    assert result.exit_code == 0
    assert "/stats" in result.stdout
    assert "no turns yet" in result.stdout
    assert "no turn to drop" in result.stderr
    assert "last turn is dropped" in result.stderr
    assert "conversation is empty" in result.stderr
    assert result.stderr.count("cut after") == 1


def test_an_unknown_command_is_an_error(folder: Path) -> None:
    result = kept("chat", "-m", folder, stdin="/hlep me\n")
    assert result.exit_code == 2
    assert "/hlep" in result.stderr
    assert "/help" in result.stderr


def test_a_message_that_begins_with_a_slash(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    asks = Session.ask

    def asking(
        session: Session, text: str, say: Callable[[str], None], think: Callable[[str], None]
    ) -> Completion:
        asked.append(text)
        return asks(session, text, say, think)

    monkeypatch.setattr(Session, "ask", asking)
    assert kept("chat", "-m", folder, *FEW, stdin="//etc\n").exit_code == 0
    assert asked == ["/etc"]


def test_lines_that_are_no_text(folder: Path) -> None:
    result = kept("chat", "-m", folder, *FEW, stdin=b"Hello\n\xff\n")
    assert result.exit_code == 2
    assert "line 2 of stdin is not UTF-8" in result.stderr


def test_options_a_chat_cannot_honour(folder: Path) -> None:
    beams = kept("chat", "-m", folder, "--num-beams", 2, stdin="Hello\n")
    logprobs = kept("chat", "-m", folder, "--logprobs", 2, stdin="Hello\n")
    assert (beams.exit_code, logprobs.exit_code) == (2, 2)


def test_a_turn_reads_only_what_is_new(session: Session) -> None:
    first = ask(session, "Hello")
    second = ask(session, "And now?")
    # All but the last token of the first answer, which was drawn and never read.
    assert second.cached_tokens >= first.prompt_tokens
    new = second.prompt_tokens - second.cached_tokens
    header, _, row = session.stats().splitlines()
    columns = dict(zip(header.split()[:5], row.split()[:5], strict=True))
    assert columns["cached"] == str(second.cached_tokens)
    assert columns["new"] == str(new)


def test_undo_takes_back_a_turn(session: Session, llm: LLM) -> None:
    first = ask(session, "Hello")
    again = ask(session, "And now?")
    assert session.undo()
    assert ask(session, "And now?").token_ids == again.token_ids
    session.reset()
    fresh = ask(session, "Hello")
    assert (fresh.token_ids, fresh.cached_tokens) == (first.token_ids, 0)
    assert session.undo()
    assert not session.undo()


def test_ctrl_c_keeps_what_there_is_of_an_answer(
    session: Session, interrupt_after: Callable[[int], None]
) -> None:
    pieces: list[str] = []
    interrupt_after(4)
    stopped = ask(session, "Hello", pieces.append)
    assert stopped.finish_reason == "interrupted"
    assert stopped.text == "".join(pieces) != ""
    following = ask(session, "Go on")
    assert following.prompt_tokens > stopped.prompt_tokens + 1
    assert following.cached_tokens >= stopped.prompt_tokens


def test_ctrl_c_before_any_text_drops_the_turn(
    session: Session, interrupt_after: Callable[[int], None]
) -> None:
    interrupt_after(0)
    assert ask(session, "Hello").text == ""
    assert not session.undo()


def test_ctrl_c_ends_a_piped_chat(folder: Path, interrupt_after: Callable[[int], None]) -> None:
    interrupt_after(3)
    result = kept("chat", "-m", folder, *FEW, stdin="Hello\nMore\n")
    assert result.exit_code == 130
    assert result.stdout.endswith("\n")
