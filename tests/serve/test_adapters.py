"""Adapters are models of the server's, by their names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lora import write_adapter
from transformers import AutoModelForCausalLM

from kept import LLM
from kept.errors import OptionError
from kept.models import find_folder
from kept.serve.service import Service
from kept.serve.settings import Settings

from .serving import Served, served

PROMPT = "def add(a, b):"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("adapter")
    base, _ = find_folder(None)
    write_adapter(found, AutoModelForCausalLM.from_pretrained(base), size=0.5)
    return found


@pytest.fixture(scope="module")
def adapted(folder: Path) -> LLM:
    return LLM(adapters={"other": folder})


@pytest.fixture(scope="module")
def server(adapted: LLM) -> Iterator[Served]:
    with served(adapted) as found:
        yield found


def test_every_protocol_chooses_by_the_model(server: Served, adapted: LLM) -> None:
    listed = server.http.get("/v1/models").json()["data"]
    assert [(each["id"], each["parent"]) for each in listed] == [("kept", None), ("other", "kept")]
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False}
    base, other = (
        adapted.generate(PROMPT, adapter=name, **options)[0].text for name in (None, "other")
    )
    assert base != other
    for model, expected in (("other", other), ("kept", base), ("", base)):
        found = server.complete(PROMPT, model=model, temperature=0).json()
        assert (found["choices"][0]["text"], found["model"]) == (expected, model or "kept")
        raw = {"model": model, "prompt": PROMPT, "raw": True, "stream": False}
        asked = {**raw, "options": {"temperature": 0, "num_predict": 8}}
        assert server.http.post("/api/generate", json=asked).json()["response"] == expected
    assert server.complete(PROMPT, model="another").status_code == 404


def test_messages_and_scores(server: Served, adapted: LLM) -> None:
    messages = [{"role": "user", "content": "add two numbers"}]
    expected = adapted.chat(messages, adapter="other", max_new_tokens=8, do_sample=False).text
    asked = {"model": "other", "messages": messages, "temperature": 0, "max_tokens": 8}
    found = server.http.post("/v1/chat/completions", json=asked).json()
    assert found["choices"][0]["message"]["content"] == expected
    found = server.http.post("/v1/messages", json=asked).json()
    assert found["content"][0]["text"] == expected
    body = {"model": "other", "input": messages, "temperature": 0, "max_output_tokens": 8}
    found = server.http.post("/v1/responses", json=body).json()
    assert found["output"][0]["content"][0]["text"] == expected
    scores = [
        server.complete(PROMPT, model=name, max_tokens=0, echo=True, logprobs=1).json()
        for name in ("kept", "other")
    ]
    one, other = (each["choices"][0]["logprobs"]["token_logprobs"] for each in scores)
    assert one[1:] != other[1:]
    vectors = [
        server.http.post("/v1/embeddings", json={"model": name, "input": PROMPT}).json()["data"]
        for name in ("kept", "other")
    ]
    assert vectors[0] != vectors[1]


def test_one_name_for_both_is_refused(adapted: LLM) -> None:
    with pytest.raises(OptionError, match="'other' is the name of the model and of an adapter"):
        Service(adapted, Settings(served_model_name=("other",)))
