"""Answers as GLM-4-0414 writes them, and conversations that some templates want otherwise."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
from jsonschema import validate

from kept.serve.conversation import for_template, options_for
from kept.text import ChatTemplate

from .scripted import Dialect, scripted
from .serving import Served, served
from .test_harmony_answers import SCHEMA, TOOLS, message, said

# As GLM-4-0414's: a call is a message with its name as metadata, its result an observation.
TEMPLATE: Final = (
    "{{ tools | tojson if tools }}{% for m in messages %}"
    "{{ '<|observation|>' if m.role == 'observation' else '<|' + m.role + '|>' }}"
    "{{ m.metadata }}{{ '\n' + m.content }}{% endfor %}"
    "{{ '<|assistant|>' if add_generation_prompt }}"
)
MARKS: Final = ("<|user|>", "<|assistant|>", "<|observation|>")
GLM: Final = Dialect(MARKS, TEMPLATE, "<|user|>\n{}", "<|assistant|>", end="")
SCRIPT: Final = {
    "think": "\nYes.<|user|>",
    "call": 'count\n{"n": 7}<|observation|>',
    "spoil": "count\n{seven}<|observation|>",
    "stumble": "\ncounting\n{}<|user|>",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(scripted(tmp_path_factory.mktemp("glm"), SCRIPT, GLM)) as found:
        yield found


@pytest.mark.parametrize(
    ("asked", "content", "calls"),
    [
        ("think", "Yes.", []),
        ("call", "", [["count", '{"n": 7}']]),
        ("spoil", "", [["count", "{seven}"]]),
        ("stumble", "counting\n{}", []),
    ],
)
def test_messages(server: Served, asked: str, content: str, calls: list[Any]) -> None:
    expected = {"reasoning": "", "content": content, "calls": calls}
    assert message(server, messages=said(asked), tools=TOOLS) == expected
    assert message(server, messages=said("think"))["content"] == "Yes."


@pytest.mark.parametrize("is_strict", [True, False])
def test_calls_that_are_kept_to(server: Served, is_strict: bool) -> None:
    tools = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": is_strict}}]
    options: dict[str, Any] = {} if is_strict else {"tool_choice": "required"}
    [[name, arguments]] = message(server, messages=said("spoil"), tools=tools, **options)["calls"]
    assert name == "count"
    validate(json.loads(arguments), SCHEMA)
    if is_strict:
        assert message(server, messages=said("think"), tools=tools)["content"] == "Yes."


def test_calls_go_back_as_messages_by_their_names() -> None:
    template = ChatTemplate(TEMPLATE)
    call = {"type": "function", "function": {"name": "count", "arguments": '{"n":7}'}}
    given = {"type": "function", "function": {"name": "count", "arguments": {"n": 8}}}
    answer = {"role": "assistant", "content": "Sure.", "tool_calls": [call, given]}
    result = {"role": "tool", "tool_call_id": "c", "content": "7"}
    shown = template.render(for_template([*said("Hi"), answer, result], TOOLS, template))
    assert shown == (
        '<|user|>\nHi<|assistant|>\nSure.<|assistant|>count\n{"n": 7}<|assistant|>count\n{"n": 8}'
        "<|observation|>\n7"
    )


def test_tools_of_a_template_that_finds_them_in_the_system_s_message() -> None:
    """As Phi 4 mini's."""
    template = ChatTemplate(
        "{% for message in messages %}{{ message['content'] }}"
        "{% if 'tools' in message %}<|tool|>{{ message['tools'] }}<|/tool|>{% endif %}{% endfor %}"
    )
    for messages in (said("Hi"), [{"role": "system", "content": "Be."}, *said("Hi")]):
        shown = template.render(for_template(messages, TOOLS, template), tools=TOOLS)
        head, _, rest = shown.partition("<|tool|>")
        assert head == ("" if len(messages) == 1 else "Be.")
        tools, _, rest = rest.partition("<|/tool|>")
        assert (json.loads(tools), rest) == ([TOOLS[0]["function"]], "Hi")
    assert for_template(said("Hi"), (), template) == said("Hi")


@pytest.mark.parametrize(
    ("marks", "shown"),
    [
        ("<|tool|>", 'Sure.<|tool_call|>[{"name": "count", "arguments": {"n": 7}}]<|/tool_call|>'),
        ("<|tool_call|>", 'Sure.<|tool_call|>[{"name": "count", "arguments": {"n": 7}}]'),
        ("<|tool_call|> tool_calls", "Sure."),
    ],
)
def test_calls_of_a_template_that_shows_text_alone(marks: str, shown: str) -> None:
    template = ChatTemplate("{{ messages[0].content }}{# " + marks + " #}")
    call = {"type": "function", "function": {"name": "count", "arguments": '{"n": 7}'}}
    answer = {"role": "assistant", "content": "Sure.", "tool_calls": [call]}
    assert template.render(for_template([answer], TOOLS, template)) == shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{% if thinking %}<think>{% endif %}", {"enable_thinking": True, "thinking": True}),
        (
            "{% if not thinking is defined %}!{% endif %}",
            {"enable_thinking": True, "thinking": True},
        ),
        ("{% if thinking or enable_thinking %}{% endif %}", {"enable_thinking": True}),
        ("{% if message.thinking %}{% endif %}", {"enable_thinking": True}),
    ],
)
def test_thinking_goes_by_the_template_s_name_for_it(text: str, expected: dict[str, bool]) -> None:
    assert options_for({"enable_thinking": True}, ChatTemplate(text)) == expected
    assert options_for({}, ChatTemplate(text)) == {}
    given = {"enable_thinking": True, "thinking": False}
    assert options_for(given, ChatTemplate(text)) == given
