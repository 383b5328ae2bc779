"""Chat completions and completions, whole and in streams, are what the library writes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kept import LLM, SamplingParams

from .serving import Served

MESSAGES = [{"role": "user", "content": "add two numbers"}]


def chunks(served: Served, path: str, body: dict[str, Any]) -> list[Any]:
    """The objects of a stream, [DONE] as text."""
    with served.http.stream("POST", path, json={**body, "stream": True}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line[6:] for line in answer.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_a_chat_is_that_of_the_library(server: Served, llm: LLM) -> None:
    expected = llm.chat(MESSAGES, max_new_tokens=20)
    found = server.chat(max_tokens=20).json()
    [choice] = found["choices"]
    assert choice["message"]["content"] == expected.text
    assert choice["finish_reason"] == "length"
    assert found["object"] == "chat.completion"
    usage = found["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (expected.prompt_tokens, 20)
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert cached == sum(usage["kept"]["cached_from"].values()) > 0


def test_a_stream_is_the_same_text_with_one_usage(server: Served) -> None:
    whole = server.chat(max_tokens=20).json()
    body = {"messages": MESSAGES, "max_tokens": 20, "stream_options": {"include_usage": True}}
    told = chunks(server, "/v1/chat/completions", body)
    assert told[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in told if c["choices"])
    assert text == whole["choices"][0]["message"]["content"]
    usages = [c["usage"] for c in told if c.get("usage")]
    assert len(usages) == 1
    assert told[-1]["choices"] == []
    assert usages[0]["completion_tokens"] == 20
    assert len({c["id"] for c in told}) == 1


def test_texts_of_several_prompts_keep_their_places(server: Served, llm: LLM) -> None:
    prompts = ["def add(a, b):", "class Stack:"]
    params = SamplingParams(
        max_new_tokens=9, temperature=0.9, top_k=0, seed=5, num_return_sequences=2
    )
    expected = [c.text for prompt in prompts for c in llm.generate(prompt, params)]
    body = {"n": 2, "seed": 5, "temperature": 0.9, "max_tokens": 9}
    whole = server.complete(prompts, **body).json()
    assert [c["index"] for c in whole["choices"]] == [0, 1, 2, 3]
    assert [c["text"] for c in whole["choices"]] == expected
    texts = [""] * 4
    for told in chunks(server, "/v1/completions", {"prompt": prompts, **body}):
        for choice in told["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == expected


def test_copies_of_the_likeliest_text_are_counted(server: Served) -> None:
    found = server.complete(n=3, temperature=0, top_p=0.5, max_tokens=4).json()
    assert len({c["text"] for c in found["choices"]}) == 1
    assert found["usage"]["completion_tokens"] == 12


def test_ids_and_logprobs(server: Served, llm: LLM) -> None:
    assert llm.tokenizer is not None
    ids = llm.tokenizer.encode("def add(a, b):")
    [expected] = llm.generate("def add(a, b):", max_new_tokens=6, logprobs=2)
    assert expected.logprobs is not None
    [choice] = server.complete(ids, max_tokens=6, logprobs=2).json()["choices"]
    assert choice["text"] == expected.text
    assert choice["logprobs"]["token_logprobs"] == [e.chosen.logprob for e in expected.logprobs]
    assert "".join(choice["logprobs"]["tokens"]) == expected.text
    told = chunks(server, "/v1/completions", {"prompt": ids, "max_tokens": 6, "logprobs": 2})
    drawn = [c["logprobs"] for t in told for c in t["choices"] if c["logprobs"]]
    assert [x for d in drawn for x in d["token_logprobs"]] == choice["logprobs"]["token_logprobs"]
    assert [x for d in drawn for x in d["text_offset"]] == choice["logprobs"]["text_offset"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"messages": []}, "messages"),
        ({"temperature": 9}, "temperature"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"logit_bias": {"99999": 1}}, "logit_bias"),
        ({"logit_bias": {"99999": 0}}, "logit_bias"),
        ({"stop_token_ids": [3, 99999]}, "stop_token_ids"),
        ({"n": 99}, "n"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
         "messages.0.content.0.type"),
    ],
)  # fmt: skip
def test_what_is_not_done_is_named(server: Served, body: dict[str, Any], field: str) -> None:
    answer = server.chat(**body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == field
    assert error["type"] == "invalid_request_error"


def test_what_asks_for_nothing_is_taken(server: Served) -> None:
    plain = server.chat().json()
    asked = server.chat(
        logit_bias={"foo": 0},
        prompt_cache_options={"mode": "implicit", "ttl": "30m"},
        prompt_cache_retention="24h",
        functions=[{"name": "f"}],
        function_call="none",
        metadata={"a": "b"},
        unheard_of=None,
    ).json()
    assert asked["choices"] == plain["choices"]
    assert server.chat(functions=[{"name": "f"}]).json()["error"]["param"] == "functions"


def test_a_prompt_too_long_is_told_with_both_numbers(server: Served) -> None:
    answer = server.complete([5] * 2100)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
    assert "2048" in error["message"]
    assert "2100" in error["message"]


def test_models(server: Served) -> None:
    assert server.http.get("/v1/models").json()["data"][0]["id"] == "kept"
    assert server.http.get("/v1/models/kept").json()["id"] == "kept"
    assert server.http.get("/v1/models/other").status_code == 404
    assert server.chat(model="other").json()["error"]["code"] == "model_not_found"
