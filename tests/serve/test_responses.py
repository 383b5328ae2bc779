"""Responses are what the library writes, told in OpenAI's order, and can be gone on from."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kept import LLM
from kept.serve import sse

from .serving import Served, served

MESSAGES = [{"role": "user", "content": "add two numbers"}]


def ask(server: Served, **body: Any) -> Any:
    body = {"input": "add two numbers", "max_output_tokens": 8, **body}
    answer = server.http.post("/v1/responses", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(server: Served, **body: Any) -> list[Any]:
    """The events of a stream, by their names and numbers."""
    body = {"input": "add two numbers", "max_output_tokens": 8, **body, "stream": True}
    with server.http.stream("POST", "/v1/responses", json=body) as answer:
        return read(answer)


def read(answer: Any) -> list[Any]:
    found, name = [], None
    for line in answer.iter_lines():
        if line.startswith("event: "):
            name = line[7:]
        if line.startswith("data: "):
            found.append(json.loads(line[6:]))
            assert found[-1]["type"] == name
            assert found[-1]["sequence_number"] == len(found) - 1
    return found


def text_of(found: Any) -> str:
    text: str = found["output"][0]["content"][0]["text"]
    return text


def test_a_response_is_that_of_the_library(server: Served, llm: LLM) -> None:
    expected = llm.chat(MESSAGES, max_new_tokens=20)
    found = ask(server, max_output_tokens=20)
    assert text_of(found) == expected.text
    assert (found["status"], found["incomplete_details"]) == (
        "incomplete",
        {"reason": "max_output_tokens"},
    )
    usage = found["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (expected.prompt_tokens, 20)
    cached = usage["input_tokens_details"]["cached_tokens"]
    assert cached == sum(usage["kept"]["cached_from"].values()) > 0
    assert usage["input_tokens_details"]["cache_write_tokens"] == expected.prompt_tokens - cached


def test_a_stream_is_told_in_their_order(server: Served) -> None:
    whole = ask(server, max_output_tokens=20, top_logprobs=1)
    told = events(server, max_output_tokens=20, top_logprobs=1)
    kinds = [event["type"].removeprefix("response.") for event in told]
    begin = ["created", "in_progress", "output_item.added", "content_part.added"]
    end = ["output_text.done", "content_part.done", "output_item.done", "incomplete"]
    assert kinds[:4] == begin
    assert kinds[-4:] == end
    assert set(kinds[4:-4]) == {"output_text.delta"}
    assert "".join(event["delta"] for event in told[4:-4]) == text_of(whole)
    drawn = [each for event in told[4:-4] for each in event["logprobs"]]
    last = told[-1]["response"]
    assert drawn == last["output"][0]["content"][0]["logprobs"]
    assert len(drawn) == 20
    assert text_of(last) == text_of(whole)
    assert told[0]["response"]["output"] == []
    again = server.http.get(f"/v1/responses/{last['id']}", params={"stream": "true"})
    assert [event["type"] for event in read(again)] == [e["type"] for e in told[:5] + told[-4:]]


def test_a_conversation_goes_on_from_what_is_stored(server: Served, llm: LLM) -> None:
    first = ask(server, instructions="be brief")
    second = ask(server, input="and three?", previous_response_id=first["id"])
    expected = [*MESSAGES, {"role": "assistant", "content": text_of(first)},
                {"role": "user", "content": "and three?"}]  # fmt: skip
    assert text_of(second) == llm.chat(expected, max_new_tokens=8).text
    third = ask(server, input="and four?", previous_response_id=second["id"])
    listed = server.http.get(f"/v1/responses/{third['id']}/input_items").json()
    assert [item["content"][0]["text"] for item in listed["data"]] == ["and four?"]
    body = {"input": [{"type": "item_reference", "id": first["output"][0]["id"]}]}
    counted = server.http.post("/v1/responses/input_tokens", json=body).json()
    assert counted["input_tokens"] == len(llm.read_chat(expected[1:2]))

    assert server.http.get(f"/v1/responses/{first['id']}").json() == first
    assert server.http.delete(f"/v1/responses/{first['id']}").json()["deleted"]
    assert server.http.get(f"/v1/responses/{first['id']}").status_code == 404
    gone = server.http.post(
        "/v1/responses", json={"input": "x", "previous_response_id": first["id"]}
    )
    assert gone.json()["error"]["param"] == "previous_response_id"
    unkept = ask(server, store=False)
    assert server.http.get(f"/v1/responses/{unkept['id']}").status_code == 404


def test_what_tenants_store_is_their_own_and_bounded(llm: LLM) -> None:
    with served(llm, api_key=("one:11111111", "two:22222222"), response_store=20_000) as server:
        server.http.headers["x-api-key"] = "11111111"
        first = ask(server)
        server.http.headers["x-api-key"] = "22222222"
        assert server.http.get(f"/v1/responses/{first['id']}").status_code == 404
        named = {"comparison_response_id": first["id"]}
        told = ask(server, prompt_cache_options=named)["prompt_cache_diagnostics"]
        assert told == {"type": "comparison_response_not_found"}
        server.http.headers["x-api-key"] = "11111111"
        for _ in range(12):
            last = ask(server, max_output_tokens=1)
        assert server.http.get(f"/v1/responses/{first['id']}").status_code == 404
        assert server.http.get(f"/v1/responses/{last['id']}").status_code == 200


def test_items_are_rendered_where_they_stand(server: Served, llm: LLM) -> None:
    items: list[Any] = [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "hi"}]},
        {"role": "user", "content": "add"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c", "name": "run", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "3"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "three"}]},
        {"role": "user", "content": "and now?"},
    ]
    tools: list[Any] = [
        {"type": "web_search"},
        {"type": "namespace", "name": "n", "tools": []},
        {"type": "function", "name": "run", "parameters": {"type": "object"}, "strict": False},
    ]
    expected = [
        {"role": "system", "content": "be brief"},
        {"role": "system", "content": "hi"},
        {"role": "user", "content": "add"},
        {"role": "assistant", "content": ""},
        {"role": "tool", "content": "3"},
        {"role": "assistant", "content": "three"},
        {"role": "user", "content": "and now?"},
    ]
    found = ask(server, input=items, tools=tools, instructions="be brief", prompt_cache_key="k")
    assert text_of(found) == llm.chat(expected, max_new_tokens=8).text
    assert [tool["name"] for tool in found["tools"]] == ["run"]


def test_the_cache_is_warmed_and_compared(server: Served) -> None:
    prompt = "what are tuples, and what would anybody use them for in a program?"
    warm = ask(server, input=prompt, prompt_cache_options={"prewarm": True})
    assert (warm["output"], warm["status"]) == ([], "completed")
    assert warm["usage"]["output_tokens"] == 0
    named = {"comparison_response_id": warm["id"]}
    found = ask(server, input=prompt, prompt_cache_options=named)
    assert found["prompt_cache_diagnostics"] == {"type": "cache_hit"}
    assert found["usage"]["input_tokens_details"]["cache_write_tokens"] == 1
    told = ask(server, input="Wh" + prompt[2:], prompt_cache_options=named)
    missed = told["prompt_cache_diagnostics"]
    assert (missed["type"], missed["reason"]) == ("cache_miss", "input_changed")
    known = warm["usage"]["input_tokens"]
    assert missed["comparison_reusable_tokens"] == known
    cached = told["usage"]["input_tokens_details"]["cached_tokens"]
    reusable = min(known, told["usage"]["input_tokens"] - 1)
    assert missed["cache_missed_tokens"] == reusable - cached > 0


@pytest.mark.parametrize("field", ['"\\ud800"', "NaN", "-1e999"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_repeats_what_no_writer_of_json_takes(
    server: Served, field: str, stream: bool
) -> None:
    """And holds no place in the queue where it cannot be told."""
    tools = f'[{{"type": "function", "name": "f", "parameters": {{"x": {field}}}}}]'
    body = f'{{"input": "x", "max_output_tokens": 1, "tools": {tools}, "stream": '
    kind = {"Content-Type": "application/json"}
    content = f"{body}{json.dumps(stream)}}}"
    answer = server.http.post("/v1/responses", content=content, headers=kind)
    assert answer.status_code == 200
    lines = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    found = json.loads(lines[-1][6:])["response"] if stream else answer.json()
    expected = None if field != '"\\ud800"' else json.loads(field)
    assert found["tools"][0]["parameters"] == {"x": expected}
    assert server.has_idle_engines()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "input"),
        ({"input": "x", "background": True}, "background"),
        ({"input": "x", "conversation": "c"}, "conversation"),
        ({"input": "x", "text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"input": [{"type": "computer_call"}]}, "input.0.type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
         "input.0.content.0.type"),
        ({"input": [{"type": "item_reference", "id": "nobody's"}]}, "input.0.id"),
        ({"input": "x", "previous_response_id": "nobody's"}, "previous_response_id"),
    ],
)  # fmt: skip
def test_what_is_not_done_is_named(server: Served, body: dict[str, Any], field: str) -> None:
    answer = server.http.post("/v1/responses", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field


def test_a_silent_stream_goes_on_with_events(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients that count events and no comments do not give it up; numbers stay in order."""
    monkeypatch.setattr(sse, "KEEP_ALIVE", 0.0005)
    told = events(server, input="x = 1\n" * 300, max_output_tokens=2)
    kinds = [event["type"] for event in told]
    assert kinds[0] == "response.created"
    assert kinds.count("response.in_progress") > 1
    assert kinds[-1] == "response.incomplete"
