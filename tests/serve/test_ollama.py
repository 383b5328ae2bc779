"""Ollama's endpoints give the library's texts, in lines or whole."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kept import LLM, SamplingParams

from .serving import Served

MESSAGES = [{"role": "user", "content": "add two numbers"}]


def post(server: Served, path: str, **body: Any) -> Any:
    return server.http.post(path, json={"model": "kept:latest", **body})


def test_a_chat_is_told_in_lines(server: Served, llm: LLM) -> None:
    expected = llm.chat(MESSAGES, max_new_tokens=12)
    body = {"messages": MESSAGES, "options": {"num_predict": 12, "num_ctx": 4096}}
    answer = post(server, "/api/chat", **body)
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert "".join(line["message"]["content"] for line in lines) == expected.text
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    last = lines[-1]
    assert (last["done_reason"], last["eval_count"]) == ("length", 12)
    assert last["prompt_eval_count"] == expected.prompt_tokens
    names = ("load_duration", "prompt_eval_duration", "eval_duration")
    parts = [last[name] for name in names]
    assert all(isinstance(part, int) and part >= 0 for part in parts)
    assert sum(parts) <= last["total_duration"]
    whole = post(server, "/api/chat", **body, stream=False).json()
    assert whole["message"]["content"] == expected.text


def test_options_are_those_of_the_library(server: Served, llm: LLM) -> None:
    params = SamplingParams(max_new_tokens=12, temperature=0.8, top_k=20, top_p=0.9, seed=3)
    options = {"num_predict": 12, "temperature": 0.8, "top_k": 20, "top_p": 0.9, "seed": 3}
    [expected] = llm.generate("def add(a, b):", params)
    body = {"prompt": "def add(a, b):", "options": options, "stream": False}
    assert post(server, "/api/generate", **body, raw=True).json()["response"] == expected.text
    asked = [{"role": "system", "content": "be brief"}, *MESSAGES]
    body = {"prompt": MESSAGES[0]["content"], "system": "be brief", "options": options}
    found = post(server, "/api/generate", **body, stream=False, logprobs=True).json()
    assert found["response"] == llm.chat(asked, params).text
    assert len(found["logprobs"]) == 12


def test_what_it_says_of_its_model(server: Served) -> None:
    assert server.http.get("/api/version").json()["version"]
    [tag] = server.http.get("/api/tags").json()["models"]
    [running] = server.http.get("/api/ps").json()["models"]
    assert tag["name"] == running["name"] == "kept"
    assert tag["size"] > 0
    shown = post(server, "/api/show").json()
    architecture = shown["model_info"]["general.architecture"]
    assert shown["model_info"][f"{architecture}.context_length"] == 2048
    loaded = post(server, "/api/generate", prompt="", keep_alive="5m").json()
    assert (loaded["done"], loaded["done_reason"]) == (True, "load")


@pytest.mark.parametrize(
    ("path", "body", "status", "told"),
    [
        ("/api/chat", {"messages": [{"role": "x", "content": ""}]}, 400, "messages.0.role"),
        ("/api/chat", {"messages": [{"role": "user", "images": ["x"]}]}, 400, "messages.0.images"),
        ("/api/chat", {"messages": MESSAGES, "options": {"mirostat": 1}}, 400, "options.mirostat"),
        ("/api/generate", {"prompt": "x", "template": "{{ 1 }}"}, 400, "template"),
        ("/api/generate", {"prompt": "x", "options": {"top_p": 7}}, 400, "options.top_p"),
        ("/api/generate", {"prompt": "x", "model": "other"}, 404, "other"),
        ("/api/show", {"model": "other"}, 404, "other"),
    ],
)
def test_errors_are_of_their_shape(
    server: Served, path: str, body: dict[str, Any], status: int, told: str
) -> None:
    answer = post(server, path, **body)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    assert told in answer.json()["error"]
