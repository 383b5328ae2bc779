"""Answers of a form that is asked for, calls of tools and reasoning, over HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .serving import Served
from .test_openai import chunks

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["n"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": SCHEMA}}
    for name in ("count", "measure")
]
OTHER = {"type": "function", "function": {"name": "x"}}
UNKEPT = {"not": {}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}


@pytest.mark.parametrize(
    "asked",
    [
        {"response_format": FORMAT},
        {"structured_outputs": {"json": SCHEMA}},
        {"guided_json": json.dumps(SCHEMA)},
    ],
)
def test_a_schema_is_kept_to(server: Served, asked: dict[str, Any]) -> None:
    [choice] = server.chat(**asked, max_tokens=60).json()["choices"]
    assert 0 <= json.loads(choice["message"]["content"])["n"] <= 99
    assert choice["finish_reason"] == "stop"


def test_choices_and_expressions_are_kept_to(server: Served) -> None:
    [choice] = server.complete(structured_outputs={"choice": ["yes", "no"]}).json()["choices"]
    assert choice["text"] in ("yes", "no")
    [choice] = server.complete(guided_regex="[0-9]{3}").json()["choices"]
    assert choice["text"].isdigit()


@pytest.mark.parametrize("only", [None, "measure"])
def test_a_call_that_is_asked_for_is_made(server: Served, only: str | None) -> None:
    choice = "required" if only is None else {"type": "function", "function": {"name": only}}
    body = {"tools": TOOLS, "tool_choice": choice, "max_tokens": 90}
    [told] = server.chat(**body).json()["choices"]
    [call] = told["message"]["tool_calls"]
    assert told["finish_reason"] == "tool_calls"
    assert told["message"]["content"] is None
    assert call["function"]["name"] in ([only] if only else ["count", "measure"])
    assert 0 <= json.loads(call["function"]["arguments"])["n"] <= 99
    messages = [{"role": "user", "content": "add two numbers"}]
    streamed = chunks(server, "/v1/chat/completions", {"messages": messages, **body})
    deltas = [
        c["delta"]["tool_calls"][0]
        for t in streamed
        for c in t["choices"]
        if "tool_calls" in c["delta"]
    ]
    assert [d["function"]["name"] for d in deltas if "id" in d] == [call["function"]["name"]]
    arguments = "".join(d["function"]["arguments"] for d in deltas)
    assert arguments == call["function"]["arguments"]
    assert streamed[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (
            {"response_format": {**FORMAT, "json_schema": {"schema": {"not": {}}}}},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": {**FORMAT, "json_schema": {"schema": {"oneOf": [{}, {}]}}}},
            "response_format.json_schema.schema",
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
        ({"guided_grammar": "start: nowhere"}, "guided_grammar"),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": OTHER}, "tool_choice"),
        (
            {
                "tools": [{"type": "function", "function": {"name": "f", "parameters": UNKEPT}}],
                "tool_choice": "required",
            },
            "tools",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_to_is_named(server: Served, body: dict[str, Any], field: str) -> None:
    answer = server.chat(**body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == field
