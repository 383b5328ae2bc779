"""Prompts in answers, embeddings, the tokenizer: beside what is generated."""

from __future__ import annotations

import base64
import math

import numpy as np
import pytest
import torch

from kept import LLM

from .serving import Served
from .test_openai import chunks

PROMPT = "def add(a, b):\n    return a"


def reference(llm: LLM, ids: list[int]) -> list[float]:
    """Log-probabilities of each token but the first, by one pass of the padded face."""
    with torch.no_grad():
        logits = llm.model(torch.tensor([ids]), use_cache=False).logits[0]
    rows = torch.log_softmax(logits.double(), -1)
    return [float(rows[i, token]) for i, token in enumerate(ids[1:])]


def test_echo_scores_the_prompt(server: Served, llm: LLM) -> None:
    assert llm.tokenizer is not None
    ids = llm.tokenizer.encode(PROMPT)
    found = server.complete(PROMPT, echo=True, logprobs=1, max_tokens=3, temperature=0).json()
    [choice] = found["choices"]
    logprobs = choice["logprobs"]
    assert choice["text"].startswith(PROMPT)
    assert "".join(logprobs["tokens"]) == choice["text"]
    assert logprobs["token_logprobs"][0] is None
    told = logprobs["token_logprobs"][1 : len(ids)]
    assert told == pytest.approx(reference(llm, ids), abs=1e-5)
    assert len(logprobs["token_logprobs"]) == len(ids) + 3
    assert found["usage"]["completion_tokens"] == 3
    offsets = logprobs["text_offset"]
    assert [
        choice["text"][o:].startswith(t) for o, t in zip(offsets, logprobs["tokens"], strict=True)
    ]
    alone = server.complete(PROMPT, echo=True, logprobs=1, max_tokens=0).json()
    assert alone["choices"][0]["text"] == PROMPT
    assert alone["choices"][0]["logprobs"]["token_logprobs"][1:] == told
    body = {"prompt": PROMPT, "echo": True, "logprobs": 1, "max_tokens": 3, "temperature": 0}
    pieces = [c for t in chunks(server, "/v1/completions", body) for c in t["choices"]]
    assert "".join(c["text"] for c in pieces) == choice["text"]
    streamed = [x for c in pieces if c["logprobs"] for x in c["logprobs"]["token_logprobs"]]
    assert streamed == logprobs["token_logprobs"]


def test_embeddings_are_means_of_length_one(server: Served, llm: LLM) -> None:
    assert llm.tokenizer is not None
    ids = llm.tokenizer.encode(PROMPT)
    with torch.no_grad():
        out = llm.model(torch.tensor([ids]), use_cache=False, output_hidden_states=True)
    assert out.hidden_states is not None
    mean = out.hidden_states[-1][0].double().mean(0).numpy()
    expected = mean / np.linalg.norm(mean)
    body = {"input": [PROMPT, "class A:"], "encoding_format": "float"}
    found = server.http.post("/v1/embeddings", json=body).json()
    assert [d["index"] for d in found["data"]] == [0, 1]
    vector = found["data"][0]["embedding"]
    assert math.isclose(sum(x * x for x in vector), 1.0, rel_tol=1e-5)
    np.testing.assert_allclose(vector, expected, atol=1e-5)
    coded = server.http.post("/v1/embeddings", json={"input": ids, "encoding_format": "base64"})
    raw = base64.b64decode(coded.json()["data"][0]["embedding"])
    np.testing.assert_array_equal(np.frombuffer(raw, "<f4"), np.array(vector, "<f4"))
    wrong = server.http.post("/v1/embeddings", json={"input": "a", "dimensions": 3}).json()
    assert wrong["error"]["param"] == "dimensions"


def test_text_to_tokens_and_back(server: Served, llm: LLM) -> None:
    assert llm.tokenizer is not None
    found = server.http.post("/tokenize", json={"prompt": PROMPT, "return_token_strs": True}).json()
    assert found["tokens"] == llm.tokenizer.encode(PROMPT)
    assert found["count"] == len(found["token_strs"])
    assert found["max_model_len"] == 2048
    back = server.http.post("/detokenize", json={"tokens": found["tokens"]}).json()
    assert back["prompt"] == PROMPT
    messages = [{"role": "user", "content": "hello"}]
    chat = server.http.post("/tokenize", json={"messages": messages}).json()
    assert chat["tokens"] == llm.read_chat(messages)
    info = server.http.get("/tokenizer_info").json()
    assert info["eos_token"] == "<|endoftext|>"
    assert "message" in info["chat_template"]
    wrong = server.http.post("/tokenize", json={})
    assert wrong.status_code == 400
