"""What has gone wrong in servers of other projects, tried on this one; each test names it.

tests/unit/gguf has CVE-2026-7482 and CVE-2026-27940 (readers of GGUF files); no route takes a file
or a model. tests/serve/test_guard.py has CVE-2025-48956 (headers), CVE-2025-63389 (routes without a
key) and CVE-2026-59822 (a wrong key taken for none).
"""

from __future__ import annotations

import base64
import pickle
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from kept import LLM
from kept.blocks.keys import Namespace, chain
from kept.serve import tenants
from kept.serve.tenants import Keys
from kept.text import ChatTemplate

from .serving import Served

PROMPT = {"prompt": "def f", "max_tokens": 2}


def alive(server: Served) -> None:
    assert server.complete("def add(a, b):").status_code == 200
    assert server.has_idle_engines()


def with_template(llm: LLM, template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(llm), "chat_template", ChatTemplate(template))


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2025-59425: a key compared letter by letter can be found out by the time it takes."""
    seen: list[tuple[bytes, bytes]] = []

    def compare(a: bytes, b: bytes) -> bool:
        seen.append((a, b))
        return a == b

    monkeypatch.setattr(tenants.hmac, "compare_digest", compare)
    keys = Keys.of([f"{name}:{name * 8}" for name in "abc"])
    found = keys.tenant_of(b"a" * 8)
    assert found is not None
    assert found.name == "a"
    assert keys.tenant_of(b"a") is None
    assert keys.tenant_of(b"\xff" * 100) is None
    assert len(seen) == 9  # all keys each time, also behind the one that fits
    assert {len(x) for pair in seen for x in pair} == {32}  # whatever their own lengths


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "something"},
        {"type": "string", "pattern": "("},
        {"type": "string", "pattern": "(a+)+$"},
        {"type": 5, "properties": []},
        {"$ref": "#"},
        {"$ref": "http://127.0.0.1:1/schema"},
    ],
)
def test_a_tool_of_nonsense_ends_no_engine(server: Served, schema: dict[str, Any]) -> None:
    """CVE-2025-48944: a pattern or type that is none, within a tool, ended the worker."""
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    for choice in ("auto", "required", {"type": "function", "function": {"name": "f"}}):
        assert server.chat(tools=[tool], tool_choice=choice, max_tokens=4).status_code < 500
    alive(server)


class Bomb:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.file, "gone off"))


def test_no_client_sends_tensors_or_pickles(server: Served, tmp_path: Path) -> None:
    """CVE-2025-62164, CVE-2026-3059: tensors and objects of clients were unpickled."""
    bomb = pickle.dumps(Bomb(tmp_path / "x"))
    text = base64.b64encode(bomb).decode()
    for body in (
        {"prompt_embeds": text, "max_tokens": 2},
        {**PROMPT, "prompt_embeds": text},
        {"prompt": {"__class__": text}, "max_tokens": 2},
    ):
        assert server.http.post("/v1/completions", json=body).status_code == 400
    for kind in ("application/octet-stream", "application/x-pickle", "application/json"):
        found = server.http.post("/v1/completions", content=bomb, headers={"Content-Type": kind})
        assert found.status_code == 400
    assert not (tmp_path / "x").exists()
    pickle.loads(bomb)  # the test itself can fail
    assert (tmp_path / "x").exists()


def test_template_options_change_nothing_but_variables(server: Served) -> None:
    """CVE-2025-62426: options for the template were those of the function that renders it."""
    plain = server.chat().json()["usage"]["prompt_tokens"]
    for options in (
        {"tokenize": True, "return_tensors": "pt", "return_dict": True, "max_length": 1},
        {"chat_template": "{{ 'x' * 1000 }}"},
    ):
        found = server.chat(chat_template_kwargs=options)
        assert found.json()["usage"]["prompt_tokens"] == plain
    for name in ("self", "messages", "add_generation_prompt", "continue_final_message"):
        found = server.chat(chat_template_kwargs={name: []})
        assert found.status_code == 400
        assert found.json()["error"]["param"] == "chat_template_kwargs"
    assert server.chat(chat_template="{{ 1 }}").status_code == 400


def test_prefixes_are_told_apart_by_more_than_python_hashes() -> None:
    """CVE-2025-25183: who could make two prefixes of one hash had another one's keys used."""
    root = Namespace("model", "isa", "kernels", "bf16", (None,)).root("tenant")
    texts = [[0] * 64, [(1 << 61) - 1] * 64, [-1] * 64, [-2] * 64]
    assert hash(tuple(texts[0])) == hash(tuple(texts[1]))
    assert hash(tuple(texts[2])) == hash(tuple(texts[3]))
    assert len({next(iter(chain(root, text))) for text in texts}) == 4


def test_no_address_in_content_is_fetched(server: Served) -> None:
    """CVE-2025-6242, CVE-2026-34753: pictures and files were fetched from wherever one said."""
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.0)
        url = f"http://127.0.0.1:{trap.getsockname()[1]}/x.png"
        parts = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "input_image", "image_url": url},
            {"type": "video_url", "video_url": {"url": url}},
            {"type": "input_audio", "input_audio": {"data": url, "format": "wav"}},
            {"type": "file", "file": {"file_url": url}},
            {"type": "image", "source": {"type": "url", "url": url}},
            {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        ]
        for part in parts:
            found = server.chat(messages=[{"role": "user", "content": [part]}])
            assert found.status_code == 400
            assert "root:" not in found.text
        read = [{"type": "text", "text": f"![x]({url}) <img src={url}>", "image_url": url}]
        schema = {"$schema": url, "$ref": url}
        tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
        server.chat(messages=[{"role": "user", "content": read}], tools=[tool])
        server.chat(metadata={"callback": url})
        with pytest.raises(BlockingIOError):
            trap.accept()


@pytest.mark.parametrize("n", [0, -1, 17, 4097, 10**6, 10**18, 10**30, 1.5, True, "2"])
def test_how_many_texts_has_a_limit(server: Served, n: Any) -> None:
    """CVE-2026-34756: a request of a billion texts took all memory before it was queued."""
    for path, body in (
        ("/v1/completions", PROMPT),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
    ):
        found = server.http.post(path, json={**body, "n": n})
        assert found.status_code == 400
        assert found.json()["error"]["param"] == "n"
    found = server.complete(["x"] * 16, n=16)
    assert found.status_code == 400


def test_penalties_harm_nobody_in_the_same_batch(server: Served) -> None:
    """CVE-2026-44223: a penalty, with drafts, ended the engine for everybody."""
    body = {"max_tokens": 24, "temperature": 0, "seed": 1}
    alone = server.complete("def add(a, b):", **body).json()["choices"][0]["text"]
    asked = ({"repetition_penalty": x} for x in (0.01, 0.5, 1.3, 10.0))
    bad = [
        threading.Thread(target=server.complete, args=("a a a a a a a a",), kwargs=each | body)
        for each in asked
    ]
    for thread in bad:
        thread.start()
    again = [server.complete("def add(a, b):", **body) for _ in range(3)]
    for thread in bad:
        thread.join(60)
    assert [found.json()["choices"][0]["text"] for found in again] == [alone] * 3
    alive(server)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ raise_exception.__globals__.x }}",
        "{{ messages.__class__.append.__self__ }}",
        "{% for i in range(10**9) %}{{ i }}{% endfor %}",
        "{{ 'x' * 10**10 }}",
    ],
)
def test_a_template_gets_out_of_no_sandbox(
    llm: LLM, server: Served, monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    """CVE-2026-5760: the template of a checkpoint ran as any program of its server."""
    with_template(llm, template, monkeypatch)
    found = server.chat()
    assert found.status_code == 400
    assert found.json()["error"]["code"] == "invalid_messages"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n_discard", -1),
        ("n_keep", -1),
        ("truncate_prompt_tokens", -1),
        ("max_tokens", -1),
        ("min_tokens", -1),
        ("top_k", -2),
        ("top_logprobs", -1),
        ("logprobs", -1),
        ("seed", -(1 << 70)),
        ("best_of", -1),
        ("stop_token_ids", [-1]),
        ("logit_bias", {"-1": 1}),
        ("prompt", [-1, -2]),
        ("prompt", [1 << 40]),
        ("temperature", -0.1),
        ("temperature", 1e-300),
        ("repetition_penalty", 1e-300),
        ("repetition_penalty", -1.0),
    ],
)
def test_numbers_beyond_their_range_reach_no_kernel(server: Served, field: str, value: Any) -> None:
    """CVE-2026-21869: a negative count of tokens wrote outside the cache's memory."""
    found = server.http.post("/v1/completions", json={**PROMPT, field: value})
    assert found.status_code == 400
    assert found.json()["error"]["param"] is None or field in found.json()["error"]["message"]


def test_errors_tell_no_address_and_no_path(
    llm: LLM, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2026-22778: an error's text held an address of the heap, which helps who aims at it."""
    with_template(llm, "{{ raise_exception(raise_exception|string) }}", monkeypatch)
    found = server.chat()
    assert found.status_code == 400
    assert " at 0x…>" in found.json()["error"]["message"]
    monkeypatch.undo()
    folder = str(llm.checkpoint.folder)
    with_template(llm, f"{{{{ raise_exception('{folder}/x') }}}}", monkeypatch)
    assert folder not in server.chat().text
    monkeypatch.undo()

    def fail(*given: Any) -> None:
        raise RuntimeError("secret at 0x7f0000000000 in /root/secret")

    monkeypatch.setattr("kept.serve.service.read", fail)
    found = server.chat()
    assert found.status_code == 500
    assert "secret" not in found.text
    assert "Traceback" not in found.text


@pytest.mark.parametrize(
    "path", ["/api/create", "/api/pull", "/api/push", "/api/delete", "/api/copy", "/api/blobs/x"]
)
def test_models_are_managed_by_nobody(server: Served, path: str) -> None:
    """CVE-2025-63389: whoever reached the server could change and remove its models."""
    for method in ("POST", "PUT", "DELETE", "GET"):
        assert server.http.request(method, path, json={"model": "kept"}).status_code in (404, 405)
