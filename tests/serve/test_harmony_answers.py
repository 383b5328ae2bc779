"""Answers on channels, as gpt-oss writes them, through every protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
from jsonschema import validate

from . import test_anthropic, test_ollama, test_responses
from .scripted import Dialect, scripted
from .serving import Served, served
from .test_openai import chunks

MARKS: Final = (
    *("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>"),
    *("<|return|>", "<|call|>"),
)
# As gpt-oss': a thought is shown before a call until the answer has come, and given twice refused.
TEMPLATE: Final = (
    "{% for tool in tools or [] %}"
    "<|start|>developer<|message|>{{ tool | tojson }}<|end|>{% endfor %}"
    "{% for m in messages %}{% if m.role == 'tool' %}"
    "<|start|>functions.f to=assistant<|channel|>commentary<|message|>{{ m.content | tojson }}"
    "<|end|>"
    "{% elif m.tool_calls %}{% if m.content and m.thinking %}{{ raise_exception('given twice') }}"
    "{% elif m.content or m.thinking %}"
    "<|start|>assistant<|channel|>analysis<|message|>{{ m.content or m.thinking }}<|end|>"
    "{% endif %}"
    "<|start|>assistant to=functions.{{ m.tool_calls[0].function.name }}<|channel|>commentary json"
    "<|message|>{{ m.tool_calls[0].function.arguments | tojson }}<|call|>"
    "{% elif m.role == 'assistant' %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}"
    "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}"
    "{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
ASKED: Final = "<|start|>user<|message|>{}<|end|>"
HARMONY: Final = Dialect(MARKS, TEMPLATE, ASKED, "<|start|>assistant", end="")
SCHEMA: Final = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["n"],
    "additionalProperties": False,
}
AGAIN: Final = "<|end|><|start|>assistant"
SAID: Final = f"<|channel|>commentary<|message|>Sure.{AGAIN}"
TO: Final = "<|channel|>commentary to=functions.count <|constrain|>json<|message|>"
CALL: Final = f'{TO}{{"n": 7}}<|call|>'
SCRIPT: Final = {
    "think": f"<|channel|>analysis<|message|>well{AGAIN}<|channel|>final<|message|>Yes.<|return|>",
    "call": f"<|channel|>analysis<|message|>use it{AGAIN}{SAID}{CALL}",
    "spoil": ' to=functions.count<|channel|>commentary json<|message|>{"n": seven}<|call|>',
    "stumble": "<|channel|>commentary to=count<|message|>n<|return|>",
}
TOOLS: Final = [{"type": "function", "function": {"name": "count", "parameters": SCHEMA}}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(scripted(tmp_path_factory.mktemp("harmony"), SCRIPT, HARMONY)) as found:
        yield found


def said(what: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": what}]


def message(server: Served, **body: Any) -> dict[str, Any]:
    """The message of an answer, which is the same told in pieces."""
    body = {"max_tokens": 90, **body}
    [choice] = server.chat(**body).json()["choices"]
    told: dict[str, Any] = {"content": "", "reasoning_content": "", "calls": []}
    for chunk in chunks(server, "/v1/chat/completions", body):
        for each in chunk["choices"]:
            for name in ("content", "reasoning_content"):
                told[name] += each["delta"].get(name) or ""
            for call in each["delta"].get("tool_calls", ()):
                told["calls"] += [[call["function"]["name"], ""]] if "id" in call else []
                told["calls"][-1][1] += call["function"]["arguments"]
    whole: dict[str, Any] = choice["message"]
    calls = [list(call["function"].values()) for call in whole.get("tool_calls", ())]
    assert told["content"] == (whole["content"] or "")
    assert told["reasoning_content"] == whole.get("reasoning_content", "")
    assert told["calls"] == calls
    return {"reasoning": told["reasoning_content"], "content": told["content"], "calls": calls}


@pytest.mark.parametrize(
    ("asked", "reasoning", "content", "calls"),
    [
        ("think", "well", "Yes.", []),
        ("call", "use it", "Sure.", [["count", '{"n": 7}']]),
        ("spoil", "", "", [["count", '{"n": seven}']]),
        ("stumble", "", SCRIPT["stumble"].removesuffix("<|return|>"), []),
    ],
)
def test_messages(
    server: Served, asked: str, reasoning: str, content: str, calls: list[Any]
) -> None:
    expected = {"reasoning": reasoning, "content": content, "calls": calls}
    assert message(server, messages=said(asked), tools=TOOLS) == expected


def test_without_tools_a_call_is_content(server: Served) -> None:
    found = message(server, messages=said("call"))
    assert found["reasoning"] == "use it"
    assert "to=functions.count" in found["content"]
    plain = server.chat(messages=said("think"), max_tokens=90).json()
    assert plain["choices"][0]["finish_reason"] == "stop"
    assert plain["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0


@pytest.mark.parametrize("choice", ["required", TOOLS[0]])
@pytest.mark.parametrize("asked", ["think", "spoil", "stumble"])
def test_a_call_that_has_to_be_made(server: Served, asked: str, choice: Any) -> None:
    found = message(server, messages=said(asked), tools=TOOLS, tool_choice=choice)
    [[name, arguments]] = found["calls"]
    assert name == "count"
    validate(json.loads(arguments), SCHEMA)
    assert found["reasoning"] == ("well" if asked == "think" else "")


def test_a_strict_tool_is_kept_to(server: Served) -> None:
    strict = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}]
    found = message(server, messages=said("spoil"), tools=strict)
    [[_, arguments]] = found["calls"]
    validate(json.loads(arguments), SCHEMA)
    assert message(server, messages=said("think"), tools=strict)["content"] == "Yes."


def test_content_of_a_schema(server: Served) -> None:
    named = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
    found = message(server, messages=said("think"), response_format=named)
    assert found["reasoning"] == "well"
    validate(json.loads(found["content"]), SCHEMA)


def test_every_protocol_tells_them(server: Served) -> None:
    tool = {"name": "count", "input_schema": SCHEMA}
    found = test_anthropic.ask(server, messages=said("call"), tools=[tool], max_tokens=90)
    assert [block["type"] for block in found["content"]] == ["thinking", "text", "tool_use"]
    assert found["content"][2]["input"] == {"n": 7}
    function = {"type": "function", **TOOLS[0]["function"]}
    output = test_responses.ask(server, input="call", tools=[function], max_output_tokens=90)
    assert [item["type"] for item in output["output"]] == ["reasoning", "message", "function_call"]
    shown = test_ollama.post(server, "/api/show").json()
    assert shown["capabilities"] == ["completion", "tools", "thinking"]
    body = {"messages": said("call"), "tools": TOOLS, "stream": False}
    body["options"] = {"num_predict": 90}
    told = test_ollama.post(server, "/api/chat", **body).json()["message"]
    assert (told["thinking"], told["content"]) == ("use it", "Sure.")
    assert told["tool_calls"][0]["function"]["arguments"] == {"n": 7}


def test_what_was_called_is_gone_on_from(server: Served) -> None:
    """With what was thought and said before, of which the template takes only one."""
    llm = server.service.llm
    function = {"name": "count", "arguments": '{"n": 7}'}
    call = {"id": "c", "type": "function", "function": function}
    answer = {"role": "assistant", "content": "Sure.", "reasoning_content": "use it"}
    result = {"role": "tool", "tool_call_id": "c", "content": "7"}
    body = {"messages": [*said("call"), {**answer, "tool_calls": [call]}, result]}
    asked = server.http.post("/tokenize", json={**body, "tools": TOOLS})
    assert llm.tokenizer is not None
    shown = llm.tokenizer.decode(asked.json()["tokens"], skip_special_tokens=False)
    assert "<|channel|>analysis<|message|>use it\nSure.<|end|>" in shown
    assert 'to=functions.count<|channel|>commentary json<|message|>{"n": 7}<|call|>' in shown
    assert server.chat(**body, tools=TOOLS, max_tokens=4).status_code == 200


def test_an_answer_that_goes_on(server: Served) -> None:
    begun = [*said("think"), {"role": "assistant", "content": "Yes"}]
    body = {"messages": begun, "continue_final_message": True, "max_tokens": 4}
    [choice] = server.chat(**body).json()["choices"]
    assert "reasoning_content" not in choice["message"]
    assert choice["message"]["content"]
