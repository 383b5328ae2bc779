"""`kept chat` with models that think before they answer."""

from collections.abc import Callable
from pathlib import Path

import pytest
from serve.scripted import QWEN, Dialect, write
from serve.test_command_answers import COMMAND
from serve.test_command_answers import SCRIPT as COMMANDS
from serve.test_harmony_answers import HARMONY
from serve.test_harmony_answers import SCRIPT as MESSAGES

from cli.running import kept
from kept import LLM, CacheOptions, SamplingParams
from kept.cli.session import Session

THOUGHT = {"think": "<think>\nwell\n</think>\n\nYes."}
DIALECTS: dict[str, tuple[Dialect, dict[str, str]]] = {
    "qwen": (QWEN, THOUGHT),
    "harmony": (HARMONY, MESSAGES),
    "command": (COMMAND, COMMANDS),
}
FEW = ("--max-new-tokens", 60)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    found: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in found:
            dialect, script = DIALECTS[name]
            found[name] = tmp_path_factory.mktemp(name)
            said = {dialect.said.format(asked): text for asked, text in script.items()}
            write(found[name], said, dialect=dialect)
        return found[name]

    return folder


@pytest.mark.parametrize("name", DIALECTS)
def test_thoughts_go_beside_the_answer(make: Callable[[str], Path], name: str) -> None:
    result = kept("chat", "-m", make(name), *FEW, stdin="think\n")
    assert (result.exit_code, result.stdout) == (0, "Yes.\n")
    assert "well\n" in result.stderr
    assert not any(mark in result.stderr for mark in DIALECTS[name][0].marks)


def test_marks_stay_where_special_tokens_are_shown(make: Callable[[str], Path]) -> None:
    shown = kept(
        "chat", "-m", make("harmony"), *FEW, "--no-skip-special-tokens", stdin="think\n"
    ).stdout
    assert shown == MESSAGES["think"].removesuffix("<|return|>") + "\n"


def test_a_call_that_nobody_asked_for_is_told_as_it_is(make: Callable[[str], Path]) -> None:
    result = kept("chat", "-m", make("harmony"), *FEW, stdin="spoil\n")
    assert result.stdout == MESSAGES["spoil"].removesuffix("<|call|>") + "\n"


@pytest.fixture
def llm(make: Callable[[str], Path]) -> LLM:
    return LLM(make("harmony"))


@pytest.fixture
def session(llm: LLM) -> Session:
    return Session(llm, SamplingParams(max_new_tokens=60), CacheOptions(), None)


def test_later_turns_read_the_answer_alone(session: Session, llm: LLM) -> None:
    said: list[str] = []
    thought: list[str] = []
    assert session.ask("think", said.append, thought.append).text == "Yes."
    again = session.ask("think", said.append, thought.append)
    question, answer = {"role": "user", "content": "think"}, {"role": "assistant"}
    history = [question, {**answer, "content": "Yes."}, question]
    assert again.prompt_tokens == len(llm.read_chat(history))
    assert ("".join(said), "".join(thought)) == ("Yes." * 2, "well" * 2)


def test_ctrl_c_within_a_thought_drops_the_turn(
    session: Session, interrupt_after: Callable[[int], None]
) -> None:
    thoughts: list[str] = []
    interrupt_after(5)
    stopped = session.ask("think", pytest.fail, thoughts.append)
    assert (stopped.finish_reason, stopped.text) == ("interrupted", "")
    assert "well".startswith("".join(thoughts))
    assert not session.undo()
