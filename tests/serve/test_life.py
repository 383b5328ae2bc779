"""Clients that leave, overload, draining, metrics: what happens around an answer."""

from __future__ import annotations

import gc
import json
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kept import LLM
from kept.serve import running, sse

from .serving import Served, served
from .test_openai import chunks

LONG = {"max_tokens": 1500, "ignore_eos": True}


def until(condition: Any, seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.005)
    return False


def raw(served: Served, path: str, body: dict[str, Any]) -> socket.socket:
    """A request whose answer nobody reads."""
    host, port = served.url.removeprefix("http://").split(":")
    found = socket.create_connection((host, int(port)))
    text = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    found.sendall(head.encode() + f"Content-Length: {len(text)}\r\n\r\n".encode() + text)
    return found


def test_who_leaves_frees_what_is_held(llm: LLM) -> None:
    """Queued, reading, drawing in a stream and not in one."""
    with served(llm, max_batch_size=2) as server:
        service = server.service
        read = "x = 1\n" * 300
        bodies = [
            {"prompt": "def a():", **LONG, "stream": True},
            {"prompt": "def b():", **LONG},
            {"prompt": read, **LONG},
            {"prompt": "def c():", **LONG, "stream": True},
        ]
        clients = [raw(server, "/v1/completions", body) for body in bodies]
        for _ in range(14):  # fill every slot, so that some wait
            clients.append(raw(server, "/v1/completions", {"prompt": "class D:", **LONG}))
        assert until(lambda: service.admission.num_open == 18)
        assert until(lambda: service.engines and service.engines[0].snapshot().running == 16)
        assert service.engines[0].snapshot().waiting == 2
        for client in clients:
            client.close()
        assert until(lambda: service.is_idle)
        assert server.has_idle_engines()
        blocks = service.engines[0].snapshot().blocks
        assert blocks is not None
        assert blocks.held == 0


def test_what_cannot_start_in_time_is_refused_at_once(llm: LLM) -> None:
    with served(llm, max_queue_time=0.0) as server:
        assert server.complete(max_tokens=30, ignore_eos=True).status_code == 200  # tells the pace
        clients = [raw(server, "/v1/completions", {"prompt": "a", **LONG}) for _ in range(16)]
        assert until(lambda: server.service.admission.num_open == 16)
        answer = server.complete()
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"
        unread = server.http.post("/v1/messages", content=b"no JSON")
        assert (unread.status_code, unread.json()["type"]) == (429, "error")
        echo = {"prompt": "a", "max_tokens": 0, "echo": True}  # which computes no text
        assert server.http.post("/v1/completions", json=echo).json()["choices"][0]["text"] == "a"
        for client in clients:
            client.close()
        assert until(lambda: server.service.is_idle)
        assert server.complete().status_code == 200
        text = server.http.get("/metrics").text
        assert 'vllm:admission_rejections_total{model_name="kept",reason="queue_time"} 2.0' in text


def test_draining_ends_streams_and_takes_no_more(llm: LLM) -> None:
    with served(llm) as server, ThreadPoolExecutor(4) as threads:
        body = {"prompt": "def a():", "max_tokens": 120, "ignore_eos": True}
        streams = [threads.submit(chunks, server, "/v1/completions", body) for _ in range(4)]
        assert until(lambda: server.service.admission.num_open == 4)
        server.server.handle_exit(15, None)
        assert server.http.get("/ready").status_code == 503
        assert server.http.get("/health").status_code == 200
        refused = server.complete()
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "draining"
        for stream in streams:
            pieces = [c for t in stream.result() for c in t["choices"]]
            assert pieces[-1]["finish_reason"] == "length"
        assert until(lambda: server.has_ended)


def test_a_second_signal_ends_what_there_is(llm: LLM) -> None:
    with served(llm) as server:
        client = raw(server, "/v1/completions", {"prompt": "def a():", **LONG, "stream": True})
        assert until(lambda: server.service.admission.num_open == 1)
        server.server.handle_exit(15, None)
        server.server.handle_exit(15, None)
        assert until(lambda: server.has_ended)
        client.close()


def test_an_engine_that_has_failed_is_told_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> Any:
        raise RuntimeError("a secret of /home/somebody")

    with served(LLM()) as server:
        assert server.complete().status_code == 200
        [engine] = server.service.engines
        with monkeypatch.context() as broken:
            broken.setattr(engine, "step", failing)
            broken.setattr(engine, "end", failing)
            last = server.chat(max_tokens=100)
        answers = [last, server.http.get("/ready"), server.http.get("/health"), server.complete()]
        answers.append(server.chat(stream=True))
        answers.append(server.http.post("/v1/messages", content=b"unread"))
        answers.append(server.http.post("/v1/embeddings", json={"input": "a"}))
        for answer in answers:
            assert answer.status_code == 503
            assert "start the server again" in answer.text
            assert "secret" not in answer.text
        assert 'reason="engine_failed"' in server.http.get("/metrics").text
        assert server.service.is_idle


def test_a_silent_stream_has_comments(llm: LLM, monkeypatch: Any) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE", 0.0005)
    with served(llm) as server:
        body = {"prompt": "x = 1\n" * 400, "max_tokens": 2, "stream": True}
        with server.http.stream("POST", "/v1/completions", json=body) as answer:
            lines = list(answer.iter_lines())
    assert ": kept" in lines
    assert lines[-2] == "data: [DONE]"


def test_progress_of_a_prompt(server: Served) -> None:
    body = {"prompt": "y = 2\n" * 300, "max_tokens": 2, "return_progress": True}
    told = chunks(server, "/v1/completions", body)
    progress = [t["prompt_progress"] for t in told if "prompt_progress" in t]
    assert progress[-1]["processed"] == progress[-1]["total"] == 1200
    assert [p["processed"] for p in progress] == sorted(p["processed"] for p in progress)


def test_metrics_add_up(llm: LLM) -> None:
    with served(llm) as server:
        for _ in range(2):
            server.complete("def metric_of(a):", max_tokens=5, ignore_eos=True)
        lines = server.http.get("/metrics").text.splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        named = {name.split("{")[0]: float(value) for name, value in values.items()}
        assert named["vllm:request_generation_tokens_sum"] == 10
        assert named["vllm:time_to_first_token_seconds_count"] == 2
        ended = 'vllm:request_success_total{finished_reason="length",model_name="kept"}'
        assert float(values[ended]) == 2
        assert named["vllm:num_requests_running"] == 0


def test_a_second_signal_cuts_answers_short_and_they_say_so(llm: LLM) -> None:
    endless: Any = {"max_tokens": 1900, "ignore_eos": True, "prompt": "def"}
    with served(llm) as server, ThreadPoolExecutor(1) as asker:
        whole = asker.submit(server.http.post, "/v1/completions", json=endless)
        body = {**endless, "stream": True}
        with server.http.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            assert until(lambda: server.service.admission.num_open == 2)
            for _ in range(2):
                server.server.handle_exit(signal.SIGTERM, None)
            told = [line for line in lines if line.startswith("data: ")]
        assert json.loads(told[-1][6:])["error"]["code"] == "interrupted"
        assert (whole.result().status_code, whole.result().json()["error"]["code"]) == (
            503,
            "interrupted",
        )


def test_metrics_of_blocks_and_of_files(tmp_path: Path) -> None:
    with served(LLM(kv_memory="1MiB", prefix_store=tmp_path)) as server:
        for i in range(5):
            assert server.complete([i + 5] * 300, max_tokens=2).status_code == 200
        lines = server.http.get("/metrics").text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    named = {name.replace('model_name="kept"', ""): float(value) for name, value in values.items()}
    evicted = named["kept:evicted_blocks_total{}"]
    assert evicted > 0
    for name in ("lifetime", "idle_before_evict"):
        assert named[f"vllm:kv_block_{name}_seconds_count{{}}"] == evicted
        assert named[f'vllm:kv_block_{name}_seconds_bucket{{le="+Inf",}}'] == evicted
        assert named[f"vllm:kv_block_{name}_seconds_sum{{}}"] > 0
    gaps = "vllm:kv_block_reuse_gap_seconds"
    assert named[f"{gaps}_count{{}}"] == named[f"{gaps}_sum{{}}"] == 0
    queries = named["vllm:external_prefix_cache_queries_total{}"]
    assert 0 < queries == named["vllm:prefix_cache_queries_total{}"]  # as nothing was in memory
    assert named["vllm:external_prefix_cache_hits_total{}"] == 0


def test_metrics_of_blocks_that_texts_go_on_from() -> None:
    with served(LLM()) as server:
        for more in range(3):
            assert server.complete([*[5] * 128, more], max_tokens=1).status_code == 200
        text = server.http.get("/metrics").text
    found = re.search(r"^vllm:kv_block_reuse_gap_seconds_count\{.*\} (.*)$", text, re.MULTILINE)
    assert found is not None
    assert float(found[1]) == 128 / 64  # the third one, after the second


def test_the_collector_passes_over_what_was_there_before() -> None:
    before = gc.get_threshold()
    try:
        running._spare_the_collector()
        assert gc.get_freeze_count() > 10_000
        assert len(gc.get_objects()) < gc.get_freeze_count()
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
