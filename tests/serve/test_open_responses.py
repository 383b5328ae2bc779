"""The text cases of Open Responses' compliance suite (openresponses.org), answered by a script."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from . import test_responses
from .scripted import scripted
from .serving import Served, served

NUMBER = (int, float)
# What every response says of itself there, and of what kind; `None` where it may be null.
FIELDS: dict[str, Any] = {
    **dict.fromkeys(("id", "status", "model", "truncation", "service_tier"), str),
    **dict.fromkeys(("top_p", "temperature", "presence_penalty", "frequency_penalty"), NUMBER),
    **dict.fromkeys(("created_at", "completed_at", "top_logprobs"), int),
    **dict.fromkeys(("parallel_tool_calls", "store", "background"), bool),
    **dict.fromkeys(("output", "tools"), list),
    **dict.fromkeys(("text", "usage", "metadata"), dict),
    **dict.fromkeys(("incomplete_details", "previous_response_id", "instructions", "error"), None),
    **dict.fromkeys(("reasoning", "user", "max_output_tokens", "max_tool_calls"), None),
    **dict.fromkeys(("safety_identifier", "prompt_cache_key", "tool_choice"), None),
}
WEATHER = "What's the weather like in San Francisco?"
SCRIPT = {
    "Say hello in exactly 3 words.": "Hello there, friend.",
    "Count from 1 to 5.": "1, 2, 3, 4, 5",
    "Say hello.": "Ahoy!",
    "What is my name?": "Alice.",
    WEATHER: (
        '<tool_call>\n{"name": "get_weather", "arguments": {"location": "here"}}\n</tool_call>'
    ),
}
PARAMETERS = {
    "type": "object",
    "properties": {"location": {"type": "string"}},
    "required": ["location"],
}
TOOLS = [{"type": "function", "name": "get_weather", "parameters": PARAMETERS}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(scripted(tmp_path_factory.mktemp("scripted"), SCRIPT)) as found:
        yield found


def said(role: str, content: str) -> dict[str, str]:
    return {"type": "message", "role": role, "content": content}


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "basic": ({"input": [said("user", "Say hello in exactly 3 words.")]}, "Hello there, friend."),
    "streaming": ({"input": [said("user", "Count from 1 to 5.")]}, "1, 2, 3, 4, 5"),
    "system": ({"input": [said("system", "A pirate."), said("user", "Say hello.")]}, "Ahoy!"),
    "tools": ({"input": [said("user", WEATHER)], "tools": TOOLS}, '{"location": "here"}'),
    "turns": (
        {
            "input": [
                said("user", "My name is Alice."),
                said("assistant", "Hello Alice!"),
                said("user", "What is my name?"),
            ]
        },
        "Alice.",
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_case_of_the_suite(server: Served, case: str, is_streamed: bool) -> None:
    body, expected = CASES[case]
    told: list[Any] = []
    if is_streamed:
        told = test_responses.events(server, **body, max_output_tokens=200)
        found = told[-1]["response"]
    else:
        found = server.http.post("/v1/responses", json=body).json()
    assert found["object"] == "response"
    assert found["status"] == "completed"
    for name, kind in FIELDS.items():
        assert name in found
        assert kind is None or isinstance(found[name], kind), name
    [item] = found["output"]
    if case == "tools":
        assert (item["type"], item["name"], item["arguments"]) == (
            "function_call",
            "get_weather",
            expected,
        )
    else:
        assert (item["type"], item["role"]) == ("message", "assistant")
        [part] = item["content"]
        assert (part["type"], part["text"]) == ("output_text", expected)
    if is_streamed:
        what = "function_call_arguments" if case == "tools" else "output_text"
        kinds = [event["type"] for event in told]
        deltas = [event["delta"] for event in told if event["type"] == f"response.{what}.delta"]
        assert "".join(deltas) == expected
        wanted = ("output_item.added", f"{what}.delta", f"{what}.done", "output_item.done")
        places = [kinds.index(f"response.{name}") for name in wanted]
        assert places == sorted(places)
