"""Answers as Command R7B writes them, and what of them goes back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
from jsonschema import validate

from .scripted import Dialect, scripted
from .serving import Served, served
from .test_harmony_answers import SCHEMA, TOOLS, message, said

MARKS: Final = (
    *("<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    *("<|START_ACTION|>", "<|END_ACTION|>"),
)
# As Command R7B's: a call is told with the plan before it, what is said between marks.
TEMPLATE: Final = (
    "{{ tools | tojson if tools }}{% for m in messages %}{{ m.role }}: {% if m.tool_calls %}"
    "<|START_THINKING|>{{ m.tool_plan }}<|END_THINKING|><|START_ACTION|>[\n"
    "{% for call in m.tool_calls %}"
    '    {"tool_call_id": "{{ loop.index0 }}", "tool_name": "{{ call.function.name }}", '
    '"parameters": {{ call.function.arguments | tojson }}}'
    "{% endfor %}{{ '\n' }}]<|END_ACTION|>"
    "{% elif m.role == 'assistant' %}<|START_RESPONSE|>{{ m.content }}<|END_RESPONSE|>"
    "{% else %}{{ m.content }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
COMMAND: Final = Dialect(MARKS, TEMPLATE, "user: {}", "\nassistant:")
CALL: Final = '[\n    {"tool_call_id": "0", "tool_name": "count", "parameters": {"n": 7}}\n]'
SCRIPT: Final = {
    "think": f"{MARKS[0]}well{MARKS[1]}{MARKS[2]}Yes.{MARKS[3]}",
    "call": f"{MARKS[0]}use it{MARKS[1]}{MARKS[4]}{CALL}{MARKS[5]}",
    "stumble": f"{MARKS[2]}no{MARKS[3]}{MARKS[4]}[]{MARKS[5]}",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(scripted(tmp_path_factory.mktemp("command"), SCRIPT, COMMAND)) as found:
        yield found


@pytest.mark.parametrize(
    ("asked", "reasoning", "content", "calls"),
    [
        ("think", "well", "Yes.", []),
        ("call", "use it", "", [["count", '{"n": 7}']]),
        ("stumble", "", f"no{MARKS[4]}[]{MARKS[5]}", []),
    ],
)
def test_messages(
    server: Served, asked: str, reasoning: str, content: str, calls: list[Any]
) -> None:
    expected = {"reasoning": reasoning, "content": content, "calls": calls}
    assert message(server, messages=said(asked), tools=TOOLS) == expected
    plain = message(server, messages=said("think"))
    assert (plain["reasoning"], plain["content"]) == ("well", "Yes.")


def test_what_is_asked_for_is_kept_to(server: Served) -> None:
    options = {"tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 150}
    found = message(server, messages=said("think"), tools=TOOLS, **options)
    [[name, arguments]] = found["calls"]
    assert (name, found["reasoning"]) == ("count", "well")
    validate(json.loads(arguments), SCHEMA)
    named = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
    found = message(server, messages=said("think"), response_format=named)
    validate(json.loads(found["content"]), SCHEMA)
    strict = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}]
    for asked in ("think", "call"):
        free = message(server, messages=said(asked), tools=TOOLS)
        assert message(server, messages=said(asked), tools=strict) == free


def test_an_answer_that_goes_on(server: Served) -> None:
    begun = [*said("think"), {"role": "assistant", "content": "Yes"}]
    body = {"messages": begun, "continue_final_message": True, "max_tokens": 4}
    [choice] = server.chat(**body).json()["choices"]
    assert "reasoning_content" not in choice["message"]


def test_what_was_called_goes_back(server: Served) -> None:
    function = {"name": "count", "arguments": '{"n": 7}'}
    answer = {"role": "assistant", "reasoning_content": "use it"}
    answer["tool_calls"] = [{"type": "function", "function": function}]  # type: ignore[assignment]
    asked = server.http.post("/tokenize", json={"messages": [*said("call"), answer]})
    tokenizer = server.service.llm.tokenizer
    assert tokenizer is not None
    shown = tokenizer.decode(asked.json()["tokens"], skip_special_tokens=False)
    assert f"assistant: {SCRIPT['call']}" in shown
