"""Answers as DeepSeek's models write them, and what of them goes back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
from jsonschema import validate

from .scripted import Dialect, scripted
from .serving import Served, served
from .test_harmony_answers import SCHEMA, TOOLS, message, said

CALLS: Final = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
CALL: Final = ("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>")
# As R1's: arguments are joined to text, thoughts are opened and not shown again.
TEMPLATE: Final = (
    "{{ tools | tojson if tools }}{% for m in messages %}{{ m.role }}: "
    "{{ (m.content or '').split('</think>')[-1] }}{% for call in m.tool_calls or [] %}"
    "{{ '<｜tool▁calls▁begin｜>' if loop.first else '\n' }}<｜tool▁call▁begin｜>{{ call.type }}"
    "<｜tool▁sep｜>{{ call.function.name + '\n```json\n' + call.function.arguments + '\n```' }}"
    "<｜tool▁call▁end｜>{{ '<｜tool▁calls▁end｜>' if loop.last }}{% endfor %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: <think>\n{% endif %}"
)
MARKS: Final = (*CALLS, *CALL, "<think>", "</think>")
DEEPSEEK: Final = Dialect(MARKS, TEMPLATE, "user: {}", "\nassistant: <think>\n")


def call(arguments: str) -> str:
    made = f"{CALL[0]}function{CALL[1]}count\n```json\n{arguments}\n```{CALL[2]}"
    return f"{CALLS[0]}{made}{CALLS[1]}"


SCRIPT: Final = {
    "think": "well\n</think>\n\nYes.",
    "call": f"use it</think>Sure.{call(json.dumps({'n': 7}))}",
    "spoil": f"try</think>{call('{seven}')}",
    "stumble": f"oh</think>{CALLS[0]}count",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(scripted(tmp_path_factory.mktemp("deepseek"), SCRIPT, DEEPSEEK)) as found:
        yield found


@pytest.mark.parametrize(
    ("asked", "reasoning", "content", "calls"),
    [
        ("think", "well", "Yes.", []),
        ("call", "use it", "Sure.", [["count", '{"n": 7}']]),
        ("spoil", "try", "", [["count", "{seven}"]]),
        ("stumble", "oh", f"{CALLS[0]}count", []),
    ],
)
def test_messages(
    server: Served, asked: str, reasoning: str, content: str, calls: list[Any]
) -> None:
    expected = {"reasoning": reasoning, "content": content, "calls": calls}
    assert message(server, messages=said(asked), tools=TOOLS) == expected


@pytest.mark.parametrize("is_strict", [True, False])
def test_calls_that_are_kept_to(server: Served, is_strict: bool) -> None:
    tools = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": is_strict}}]
    options = {} if is_strict else {"tool_choice": "required", "parallel_tool_calls": False}
    found = message(server, messages=said("spoil"), tools=tools, **options)
    [[name, arguments]] = found["calls"]
    assert (name, found["reasoning"]) == ("count", "try")
    validate(json.loads(arguments), SCHEMA)


def test_what_was_called_goes_back_as_text(server: Served) -> None:
    """Whichever protocol it came by: this template joins it to a text."""
    given = [{"type": "tool_use", "id": "c", "name": "count", "input": {"n": 7}}]
    result = [{"type": "tool_result", "tool_use_id": "c", "content": "7"}]
    messages = [*said("call"), {"role": "assistant", "content": given}]
    body = {"messages": [*messages, {"role": "user", "content": result}], "max_tokens": 2}
    assert server.http.post("/v1/messages", json={"model": "kept", **body}).status_code == 200
    function = {"name": "count", "arguments": '{"n":  7}'}
    answer = {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}
    asked = server.http.post("/tokenize", json={"messages": [*said("call"), answer]})
    tokenizer = server.service.llm.tokenizer
    assert tokenizer is not None
    shown = tokenizer.decode(asked.json()["tokens"], skip_special_tokens=False)
    assert call('{"n":  7}') in shown
