"""Calls, reasoning and forms of answers in the words of Anthropic, Responses and Ollama."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import validate

from . import test_anthropic, test_ollama, test_responses
from .scripted import scripted
from .serving import Served, served
from .test_openai import chunks

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["n"],
    "additionalProperties": False,
}
UNKEPT = {"not": {}}
CALL = '<tool_call>\n{"name": "count", "arguments": {"n": 7}}\n</tool_call>'
MALFORMED = '<tool_call>\n{"nom": "count"}\n</tool_call>'
SPOILT = '<tool_call>\n{"name": "count", "arguments": {"n": seven}}\n</tool_call>'
SCRIPT = {
    "call": f"<think>\nuse it\n</think>\n\nSure.\n{CALL}",
    "think": "<think>\nwell\n</think>\n\nYes.",
    "stumble": MALFORMED,
    "spoil": SPOILT,
}
NAMES = ("count", "measure")
ANTHROPIC = [{"name": name, "input_schema": SCHEMA} for name in NAMES]
FUNCTIONS = [{"type": "function", "name": name, "parameters": SCHEMA} for name in NAMES]
RESPONSES = [{"type": "web_search"}, *FUNCTIONS]
OLLAMA = [{"type": "function", "function": {"name": n, "parameters": SCHEMA}} for n in NAMES]
FORMAT = {"type": "json_schema", "schema": SCHEMA}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(scripted(tmp_path_factory.mktemp("scripted"), SCRIPT)) as found:
        yield found


def said(what: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": what}]


def blocks(told: list[Any]) -> list[Any]:
    """The blocks that the events of a stream come to, as Anthropic's client puts them together."""
    found: list[Any] = []
    for event in told:
        if event["type"] == "content_block_start":
            assert event["index"] == len(found)
            found.append(dict(event["content_block"]))
            inputs = ""
        if event["type"] == "content_block_delta":
            assert event["index"] == len(found) - 1
            delta = {**event["delta"]}
            kind = delta.pop("type")
            [(name, text)] = delta.items()
            if kind == "input_json_delta":
                inputs += text
                continue
            assert kind == f"{name}_delta"
            found[-1][name] += text
        if event["type"] == "content_block_stop" and inputs:
            found[-1]["input"] = json.loads(inputs)
    return found


def bare(items: list[Any]) -> list[Any]:
    """Blocks or items without what is new in each answer, or not in a stream."""
    new = ("id", "call_id", "citations", "logprobs")
    return [{k: v for k, v in item.items() if k not in new} for item in items]


@pytest.mark.parametrize(
    ("asked", "choice", "expected", "reason"),
    [
        ("call", "auto", ["thinking", "text", "tool_use"], "tool_use"),
        ("call", "none", ["thinking", "text"], "end_turn"),
        ("think", "auto", ["thinking", "text"], "end_turn"),
        ("think", "tool", ["thinking", "tool_use"], "tool_use"),
        ("stumble", "any", ["tool_use"], "tool_use"),
        ("stumble", "auto", ["text"], "end_turn"),
    ],
)
def test_blocks_of_anthropic(
    server: Served, asked: str, choice: str, expected: list[str], reason: str
) -> None:
    chosen = {"type": choice, **({"name": "measure"} if choice == "tool" else {})}
    if choice == "any":
        chosen["disable_parallel_tool_use"] = True  # type: ignore[assignment]
    body = {"messages": said(asked), "tools": ANTHROPIC, "tool_choice": chosen, "max_tokens": 70}
    found = test_anthropic.ask(server, **body)
    content = found["content"]
    assert [block["type"] for block in content] == expected
    assert found["stop_reason"] == reason
    for block in content:
        if block["type"] == "tool_use":
            validate(block["input"], SCHEMA)
            assert block["name"] in (["measure"] if choice == "tool" else NAMES)
    if (asked, choice) == ("call", "auto"):
        assert bare(content) == [
            {"type": "thinking", "thinking": "use it", "signature": ""},
            {"type": "text", "text": "Sure."},
            {"type": "tool_use", "name": "count", "input": {"n": 7}},
        ]
        assert content[2]["id"].startswith("toolu_")
    if choice == "none" and asked == "call":
        assert content[1]["text"] == f"Sure.\n{CALL}"
    if expected == ["text"]:
        assert content[0]["text"] == MALFORMED
    told = test_anthropic.events(server, **body)
    assert bare(blocks(told)) == bare(content)
    assert told[-2]["delta"]["stop_reason"] == reason


def test_what_anthropic_calls_with_no_object_is_text(server: Served) -> None:
    body = {"messages": said("spoil"), "tools": ANTHROPIC, "max_tokens": 70}
    found = test_anthropic.ask(server, **body)
    assert found["stop_reason"] == "end_turn"
    assert bare(found["content"]) == [
        {"type": "text", "text": '{"name": "count", "arguments": {"n": seven}'}
    ]
    told = test_anthropic.events(server, **body)
    assert told[-2]["delta"]["stop_reason"] == "end_turn"
    answer = test_anthropic.ask(server, **{**body, "messages": said("call"), "max_tokens": 22})
    assert answer["stop_reason"] == "max_tokens"
    assert "tool_use" not in [block["type"] for block in answer["content"]]


def test_thinking_is_left_out_where_that_is_asked(server: Served) -> None:
    thinking: dict[str, Any] = {"type": "adaptive", "display": "omitted"}
    body = {"messages": said("think"), "thinking": thinking, "max_tokens": 30}
    expected = [
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "text", "text": "Yes."},
    ]
    assert bare(test_anthropic.ask(server, **body)["content"]) == expected
    assert bare(blocks(test_anthropic.events(server, **body))) == expected
    off = test_anthropic.ask(server, **{**body, "thinking": {"type": "disabled"}})
    assert [block["type"] for block in off["content"]] == ["text"]


@pytest.mark.parametrize(
    ("asked", "choice", "expected"),
    [
        ("call", "auto", ["reasoning", "message", "function_call"]),
        ("call", "none", ["reasoning", "message"]),
        ("think", {"type": "function", "name": "measure"}, ["reasoning", "function_call"]),
        ("stumble", "required", ["function_call"]),
        (
            "stumble",
            {"type": "allowed_tools", "mode": "required", "tools": FUNCTIONS[1:]},
            ["function_call"],
        ),
        ("stumble", "auto", ["message"]),
    ],
)
def test_items_of_responses(server: Served, asked: str, choice: Any, expected: list[str]) -> None:
    body = {"input": asked, "tools": RESPONSES, "tool_choice": choice, "max_output_tokens": 70}
    body["parallel_tool_calls"] = False
    found = test_responses.ask(server, **body)
    output = found["output"]
    assert [item["type"] for item in output] == expected
    assert (found["status"], found["tool_choice"]) == ("completed", choice)
    assert {item["status"] for item in output} == {"completed"}
    for item in output:
        if item["type"] == "function_call":
            validate(json.loads(item["arguments"]), SCHEMA)
            assert item["name"] in (["measure"] if isinstance(choice, dict) else NAMES)
    if (asked, choice) == ("call", "auto"):
        assert output[0]["content"] == [{"type": "reasoning_text", "text": "use it"}]
        assert output[1]["content"][0]["text"] == "Sure."
        assert (output[2]["name"], output[2]["arguments"]) == ("count", '{"n": 7}')
    if expected == ["message"]:
        assert output[0]["content"][0]["text"] == MALFORMED
    told = test_responses.events(server, **body)
    last = told[-1]["response"]
    assert bare(last["output"]) == bare(output)
    texts = {item["id"]: "" for item in last["output"]}
    for event in told:
        if event["type"].endswith(".delta"):
            texts[event["item_id"]] += event["delta"]
            assert last["output"][event["output_index"]]["id"] == event["item_id"]
    for item in last["output"]:
        whole = item["arguments"] if "arguments" in item else item["content"][0]["text"]
        assert texts[item["id"]] == whole
    done = [e["item"] for e in told if e["type"] == "response.output_item.done"]
    assert done == last["output"]
    again = server.http.get(f"/v1/responses/{last['id']}", params={"stream": "true"})
    kinds = list(dict.fromkeys(event["type"] for event in told))
    assert list(dict.fromkeys(event["type"] for event in test_responses.read(again))) == kinds


def test_a_call_is_gone_on_from(server: Served) -> None:
    first = test_responses.ask(server, input="call", tools=RESPONSES, max_output_tokens=70)
    call = first["output"][2]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "7"}
    known = {"previous_response_id": first["id"], "tools": RESPONSES}
    second = test_responses.ask(server, input=[result], **known)
    assert second["status"] in ("completed", "incomplete")
    listed = server.http.get(f"/v1/responses/{second['id']}/input_items").json()["data"]
    assert [item["type"] for item in listed] == ["function_call_output"]


@pytest.mark.parametrize(
    ("asked", "content", "thinking", "calls"),
    [
        ("call", "Sure.", "use it", [("count", {"n": 7})]),
        ("think", "Yes.", "well", []),
        ("stumble", MALFORMED, None, []),
        ("spoil", '{"name": "count", "arguments": {"n": seven}', None, []),
    ],
)
def test_messages_of_ollama(
    server: Served, asked: str, content: str, thinking: str | None, calls: list[Any]
) -> None:
    body = {"messages": said(asked), "tools": OLLAMA, "options": {"num_predict": 70}}
    whole = test_ollama.post(server, "/api/chat", **body, stream=False).json()
    lines = test_ollama.post(server, "/api/chat", **body).text.splitlines()
    told = [json.loads(line)["message"] for line in lines]
    streamed: dict[str, Any] = {
        "content": "".join(message["content"] for message in told),
        "thinking": "".join(message.get("thinking", "") for message in told) or None,
        "tool_calls": [call for message in told for call in message.get("tool_calls", ())],
    }
    for message in (whole["message"], streamed):
        assert (message["content"], message.get("thinking")) == (content, thinking)
        found = [call["function"] for call in message.get("tool_calls", ())]
        assert [(call["name"], call["arguments"]) for call in found] == calls
    assert whole["done_reason"] == json.loads(lines[-1])["done_reason"] == "stop"


def test_what_ollama_says_the_model_can_do(server: Served) -> None:
    shown = test_ollama.post(server, "/api/show").json()
    assert shown["capabilities"] == ["completion", "tools", "thinking"]
    told = test_ollama.post(server, "/api/generate", prompt="think", stream=False).json()
    assert (told["response"], told["thinking"]) == ("Yes.", "well")


@pytest.mark.parametrize("is_strict", [True, False])
def test_a_strict_tool_is_kept_to_wherever_it_is_called(server: Served, is_strict: bool) -> None:
    """The model would write what is no JSON; all but the call is as it would have it."""
    function = {"name": "count", "parameters": SCHEMA, "strict": is_strict}
    body = {"messages": said("spoil"), "max_tokens": 60}
    chat = server.chat(**body, tools=[{"type": "function", "function": function}]).json()
    [call] = chat["choices"][0]["message"]["tool_calls"]
    found = [call["function"]["arguments"]]
    tool = {"type": "function", **function}
    output = test_responses.ask(server, input="spoil", tools=[tool], max_output_tokens=60)["output"]
    found += [item["arguments"] for item in output if item["type"] == "function_call"]
    tools = [{"name": "count", "input_schema": SCHEMA, "strict": is_strict}]
    blocks = test_anthropic.ask(server, **body, tools=tools)["content"]
    found += [json.dumps(block["input"]) for block in blocks if block["type"] == "tool_use"]
    assert len(found) == (3 if is_strict else 2)  # Anthropic's calls have objects alone
    for arguments in found:
        if is_strict:
            validate(json.loads(arguments), SCHEMA)
        else:
            assert "seven" in arguments
    free = server.chat(
        messages=said("think"), max_tokens=60, tools=[{**tool, "function": function}]
    )
    assert free.json()["choices"][0]["message"]["content"] == "Yes."
    unkept = {"type": "function", "function": {**function, "parameters": UNKEPT}}
    answer = server.chat(**body, tools=[unkept])
    assert answer.status_code == (400 if is_strict else 200)
    if is_strict:
        assert "tools.0.function.parameters.not" in answer.json()["error"]["message"]


@pytest.mark.parametrize("asked", ["think", "call", "stumble"])
def test_tokens_of_reasoning_are_counted(server: Served, asked: str) -> None:
    """To the mark that ends it, which is a token: whole, streamed, and while it is written."""
    tokenizer = server.service.llm.tokenizer
    assert tokenizer is not None
    before, mark, _ = SCRIPT[asked].rpartition("</think>")
    count = len(tokenizer.encode(before + mark))
    body = {"messages": said(asked), "max_tokens": 70}
    details = ("completion_tokens_details", "reasoning_tokens")
    whole = server.chat(**body, n=2).json()["usage"]
    assert whole[details[0]][details[1]] == 2 * count
    options = {"include_usage": True, "continuous_usage_stats": True}
    told = chunks(server, "/v1/chat/completions", {**body, "stream_options": options})
    counts = [each["usage"][details[0]][details[1]] for each in told]
    assert counts == sorted(counts)
    assert counts[-1] == count
    found = test_responses.ask(server, input=asked, max_output_tokens=70)["usage"]
    assert found["output_tokens_details"][details[1]] == count
    cut = server.chat(messages=said(asked), max_tokens=4).json()["usage"]
    assert cut[details[0]][details[1]] == min(count, 4)


def test_a_schema_is_kept_to_behind_free_reasoning(server: Served) -> None:
    body: dict[str, Any] = {"output_config": {"format": FORMAT}, "max_tokens": 60}
    thought, text = test_anthropic.ask(server, messages=said("think"), **body)["content"]
    assert thought["thinking"] == "well"
    validate(json.loads(text["text"]), SCHEMA)
    form = {"format": {**FORMAT, "name": "n", "strict": True}}
    found = test_responses.ask(server, input="think", text=form, max_output_tokens=60)
    assert found["text"] == form
    assert found["output"][0]["content"][0]["text"] == "well"
    validate(json.loads(found["output"][1]["content"][0]["text"]), SCHEMA)
    named = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
    chat = server.chat(messages=said("think"), response_format=named, max_tokens=60).json()
    message = chat["choices"][0]["message"]
    assert message["reasoning_content"] == "well"
    validate(json.loads(message["content"]), SCHEMA)
    for form in (SCHEMA, "json"):
        for think in (True, False):
            asked = {"messages": said("think"), "format": form, "think": think, "stream": False}
            options = {"num_predict": 60}
            told = test_ollama.post(server, "/api/chat", **asked, options=options).json()["message"]
            assert told.get("thinking") == ("well" if think else None)
            if form is SCHEMA:
                validate(json.loads(told["content"]), SCHEMA)
            else:
                assert told["content"].startswith("{")


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("messages", {"tool_choice": {"type": "any"}}, "tool_choice"),
        ("messages", {"tools": ANTHROPIC, "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        (
            "messages",
            {"tools": ANTHROPIC, "tool_choice": {"type": "tool", "name": "x"}},
            "tool_choice.name",
        ),
        (
            "messages",
            {
                "tools": ANTHROPIC,
                "tool_choice": {"type": "any"},
                "output_config": {"format": FORMAT},
            },
            "output_config.format",
        ),
        (
            "messages",
            {"tools": [{"name": "f", "input_schema": UNKEPT}], "tool_choice": {"type": "any"}},
            "tools.0.input_schema",
        ),
        (
            "messages",
            {"output_config": {"format": {**FORMAT, "schema": UNKEPT}}},
            "output_config.format.schema",
        ),
        ("responses", {"tool_choice": "required"}, "tool_choice"),
        ("responses", {"tools": RESPONSES, "tool_choice": "sometimes"}, "tool_choice"),
        ("responses", {"tool_choice": {"type": "web_search"}}, "tool_choice"),
        (
            "responses",
            {"tools": RESPONSES, "tool_choice": {"type": "function", "name": "x"}},
            "tool_choice.name",
        ),
        (
            "responses",
            {
                "tools": [{"type": "web_search"}, {**FUNCTIONS[0], "parameters": UNKEPT}],
                "tool_choice": "required",
            },
            "tools.1.parameters",
        ),
        ("responses", {"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ("responses", {"text": {"format": {**FORMAT, "schema": UNKEPT}}}, "text.format.schema"),
        ("chat", {"format": "yaml"}, "format"),
        ("chat", {"format": UNKEPT}, "format"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_to_is_named(
    server: Served, path: str, body: dict[str, Any], named: str
) -> None:
    asked: dict[str, dict[str, Any]] = {
        "messages": {"messages": said("call"), "max_tokens": 4},
        "responses": {"input": "call"},
        "chat": {"model": "kept", "messages": said("call")},
    }
    route = "/api/chat" if path == "chat" else f"/v1/{path}"
    answer = server.http.post(route, json={**asked[path], **body})
    assert answer.status_code == 400, answer.text
    assert named in answer.text


def test_options_that_leave_no_token_are_the_client_s(server: Served) -> None:
    choice = {"structured_outputs": {"choice": ["a"]}, "min_tokens": 20, "max_tokens": 30}
    answer = server.complete(**choice)
    assert answer.status_code == 400, answer.text
    assert "min_new_tokens" in answer.json()["error"]["message"]
    assert answer.json()["error"]["code"] == "no_token_left"
