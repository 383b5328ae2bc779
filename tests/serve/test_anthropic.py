"""Anthropic's messages are what the library writes, and say what the cache did and why not more."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kept import LLM

from .serving import Served

MESSAGES = [{"role": "user", "content": "add two numbers"}]


def ask(served: Served, **body: Any) -> Any:
    body.setdefault("messages", MESSAGES)
    body.setdefault("max_tokens", 8)
    answer = served.http.post("/v1/messages?beta=true", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["request-id"] == answer.headers["x-request-id"]
    return answer.json()


def events(served: Served, **body: Any) -> list[Any]:
    """The events of a stream; the name of each is its type."""
    body = {"messages": MESSAGES, "max_tokens": 8, **body, "stream": True}
    found = []
    with served.http.stream("POST", "/v1/messages", json=body) as answer:
        name = None
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line[7:]
            if line.startswith("data: "):
                found.append(json.loads(line[6:]))
                assert found[-1]["type"] == name
    return found


def test_a_message_is_that_of_the_library(server: Served, llm: LLM) -> None:
    expected = llm.chat(MESSAGES, max_new_tokens=20)
    found = ask(server, max_tokens=20)
    assert found["content"] == [{"type": "text", "text": expected.text, "citations": None}]
    assert (found["stop_reason"], found["stop_sequence"]) == ("max_tokens", None)
    usage = found["usage"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == expected.prompt_tokens
    assert usage["cache_read_input_tokens"] == sum(usage["kept"]["cached_from"].values())
    assert usage["output_tokens"] == 20


def test_a_stream_is_told_in_their_order(server: Served) -> None:
    whole = ask(server, max_tokens=20)
    told = events(server, max_tokens=20)
    kinds = [event["type"] for event in told]
    assert kinds[:3] == ["message_start", "ping", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[3:-3]) == {"content_block_delta"}
    text = "".join(event["delta"]["text"] for event in told[3:-3])
    assert text == whole["content"][0]["text"]
    assert told[0]["message"]["content"] == []
    assert told[0]["message"]["usage"]["cache_read_input_tokens"] > 0
    assert told[-2]["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert told[-2]["usage"]["output_tokens"] == 20


def test_a_stop_sequence_is_named(server: Served) -> None:
    text = ask(server, max_tokens=20)["content"][0]["text"]
    stop = text[4:7]
    found = ask(server, max_tokens=20, stop_sequences=["never to be found", stop])
    assert (found["stop_reason"], found["stop_sequence"]) == ("stop_sequence", stop)
    assert found["content"][0]["text"] == text[: text.index(stop)]


def test_messages_are_rendered_where_they_stand(server: Served, llm: LLM) -> None:
    body: dict[str, Any] = {
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cch=1234"},
            {"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}},
        ],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "add"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": ""},
                    {"type": "text", "text": "a + b"},
                    {"type": "tool_use", "id": "t1", "name": "run", "input": {"a": 1}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": "3"},
                    {"type": "text", "text": "and now"},
                ],
            },
            {"role": "system", "content": "be briefer"},
        ],
        "tools": [{"name": "run", "input_schema": {"type": "object"}}],
    }
    expected = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "add"},
        {"role": "assistant", "content": "a + b"},
        {"role": "tool", "content": "3"},
        {"role": "user", "content": "and now"},
        {"role": "system", "content": "be briefer"},
    ]
    counted = server.http.post("/v1/messages/count_tokens", json=body).json()
    assert counted == {"input_tokens": len(llm.read_chat(expected))}
    assert ask(server, **body)["content"][0]["text"] == llm.chat(expected, max_new_tokens=8).text


def test_an_answer_goes_on_with_a_last_message_of_the_assistant(server: Served, llm: LLM) -> None:
    messages = [*MESSAGES, {"role": "assistant", "content": "def add("}]
    prompt = llm.read_chat(messages, continue_final_message=True)
    [expected] = llm.generate(prompt, max_new_tokens=8)
    assert ask(server, messages=messages)["content"][0]["text"] == expected.text


def test_what_is_to_be_kept_counts_as_put_into_the_cache(server: Served) -> None:
    messages = [{"role": "user", "content": "a text that nobody has asked about before"}]
    usage = ask(server, messages=messages, max_tokens=0)["usage"]
    assert usage["output_tokens"] == usage["cache_creation_input_tokens"] == 0
    read = usage["input_tokens"] + usage["cache_read_input_tokens"]
    again = ask(server, messages=messages, cache_control={"type": "ephemeral", "ttl": "1h"})
    usage = again["usage"]
    assert usage["input_tokens"] == 0
    assert usage["cache_creation"]["ephemeral_1h_input_tokens"] == 1
    assert usage["cache_read_input_tokens"] == read - 1


def test_what_has_changed_is_told(server: Served) -> None:
    turns: list[dict[str, Any]] = [{"role": "user", "content": "what are lists, and what for?"}]
    base: dict[str, Any] = {"system": "You know Python well.", "messages": turns}
    first = ask(server, **base)
    assert first["diagnostics"] is None

    def diagnosis(**edit: Any) -> Any:
        found = ask(server, **{**base, "diagnostics": {"previous_message_id": first["id"]}, **edit})
        return found["diagnostics"] and found["diagnostics"]["cache_miss_reason"]

    answer = {"role": "assistant", "content": first["content"]}
    longer = [*turns, answer, {"role": "user", "content": "and tuples?"}]
    assert diagnosis(messages=longer) is None
    usage = first["usage"]
    known = usage["input_tokens"] + usage["cache_read_input_tokens"]
    changed = diagnosis(system="I know Python well.")
    assert changed["type"] == "system_changed"
    assert 0 < changed["cache_missed_input_tokens"] < known
    tools = [{"name": "run", "input_schema": {"type": "object"}}]
    # The bundled model's template shows no tools, so nothing was missed.
    assert diagnosis(tools=tools) == {"type": "tools_changed", "cache_missed_input_tokens": 0}
    assert diagnosis(messages=[{"role": "user", "content": "lists?"}])["type"] == "messages_changed"
    assert diagnosis(thinking={"type": "disabled"}) == {"type": "unavailable"}
    unknown = {"previous_message_id": "msg_of_somebody_else"}
    assert diagnosis(diagnostics=unknown) == {"type": "previous_message_not_found"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"messages": []}, "messages"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages.0.content.0"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0"),
        ({"cache_control": {"type": "ephemeral", "ttl": "9h"}}, "cache_control.ttl"),
    ],
)
def test_errors_are_of_their_shape(server: Served, body: dict[str, Any], field: str) -> None:
    body = {"messages": MESSAGES, "max_tokens": 8, **body}
    answer = server.http.post("/v1/messages", json=body)
    assert answer.status_code == 400
    found = answer.json()
    assert (found["type"], found["error"]["type"]) == ("error", "invalid_request_error")
    assert field in found["error"]["message"]
