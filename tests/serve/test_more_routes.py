"""Prompts in answers, embeddings, the tokenizer: beside what is generated."""

from __future__ import annotations

import base64
import json
import math
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kept
from kept import LLM
from kept.errors import CheckpointError
from kept.llm.scoring import CHUNK
from kept.serve.service import LONG, Service
from kept.serve.settings import Settings

from .serving import Served, served
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


@pytest.mark.parametrize("count", [1, CHUNK + 1])
def test_echo_scores_a_prompt_whose_last_token_is_read_alone(server: Served, count: int) -> None:
    found = server.complete([7] * count, echo=True, logprobs=0, max_tokens=0)
    assert found.status_code == 200, found.text
    told = found.json()["choices"][0]["logprobs"]["token_logprobs"]
    longer = server.complete([7] * (count + 1), echo=True, logprobs=0, max_tokens=0).json()
    assert told == longer["choices"][0]["logprobs"]["token_logprobs"][:count]
    assert told[0] is None
    assert len(told) == count


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


def test_long_texts_hold_up_each_other_alone(llm: LLM) -> None:
    """Whatever route they come by, and whether they are answered or only counted."""
    text = "x " * LONG
    long: list[tuple[str, Any]] = [
        ("/tokenize", {"prompt": text}),
        ("/tokenize", {"messages": [{"role": "user", "content": text}]}),
        ("/detokenize", {"tokens": [5] * (LONG + 1)}),
        ("/v1/embeddings", {"input": ["a", text]}),
        ("/v1/completions", {"prompt": text, "max_tokens": 0, "echo": True}),
        (
            "/v1/messages/count_tokens",
            {"messages": [{"role": "user", "content": text}]},
        ),
        ("/v1/responses/input_tokens", {"input": text}),
    ]
    with served(llm) as server, ThreadPoolExecutor(len(long)) as askers:
        goes_on = threading.Event()
        try:
            server.service._long_reader.submit(goes_on.wait)
            asked = [askers.submit(server.http.post, path, json=body) for path, body in long]
            assert server.chat().status_code == 200
            server.http.post("/tokenize", json={"prompt": "x"}).raise_for_status()
            assert not wait(asked, 0.5).done
        finally:
            goes_on.set()
        assert {each.result().status_code for each in asked} <= {200, 400}


def test_tokens_that_there_are_not_are_refused(server: Served, llm: LLM) -> None:
    size = llm.model.config.vocab_size
    found = server.http.post("/detokenize", json={"tokens": [1, size]})
    assert (found.status_code, found.json()["error"]["param"]) == (400, "tokens")
    assert server.http.post("/detokenize", json={"tokens": [size - 1]}).status_code == 200


def test_probes_ask_for_heads(server: Served) -> None:
    for path in ("/health", "/ready", "/"):
        found = server.http.head(path)
        assert (found.status_code, found.content) == (200, b"")


def test_models_behind_a_slash_are_all(server: Served) -> None:
    assert server.http.get("/v1/models/").json() == server.http.get("/v1/models").json()


@pytest.mark.parametrize("content", ["", "[]", "3"])
def test_a_body_that_is_no_object_is_told_so(server: Served, content: str) -> None:
    kind = {"Content-Type": "application/json"}
    found = server.http.post("/v1/completions", content=content, headers=kind)
    assert found.status_code == 400
    assert "the body is" in found.json()["error"]["message"]


def test_a_model_without_a_chat_template(tmp_path: Path) -> None:
    """It can be asked what it is, and continues prompts; that it has no chat is told by chats."""
    folder = copied(tmp_path)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with served(LLM(folder)) as server:
        shown = server.http.post("/api/show", json={"model": "kept"})
        assert (shown.status_code, shown.json()["template"]) == (200, "")
        assert server.http.get("/tokenizer_info").json()["chat_template"] is None
        assert server.complete().status_code == 200
        assert server.chat().json()["error"]["code"] == "invalid_messages"


def test_a_model_without_a_tokenizer_is_not_served(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        Service(LLM(folder), Settings())


def copied(folder: Path) -> Path:
    """The bundled model in a folder of its own."""
    return Path(shutil.copytree(Path(kept.__file__).parent / "bundled", folder / "model"))
