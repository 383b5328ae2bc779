"""Requests recorded under load, replayed alone: the same bits. No other order, batch, chunk or
cache hit may tell in a text, its log-probabilities, or its end."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import pytest
from thinning import FULL

from kept import LLM, machine

from .serving import Served, served

NUM_REQUESTS = 200 if FULL else 24
OPENINGS = ("def add(a, b):", "class Stack:\n", "import os\n", "for x in range(10):\n", "# why\n")


def drawn(random: Random) -> dict[str, Any]:
    """A request as somebody might send it, half of them behind a prefix that others have too."""
    prompt = "".join(random.choices(OPENINGS, k=random.choice([1, 2, 9, 30])))
    body: dict[str, Any] = {
        "prompt": prompt,
        "max_tokens": random.choice([1, 5, 17, 40]),
        "seed": random.randrange(1 << 60),
        "logprobs": random.choice([0, 3]),
    }
    body |= random.choice(
        [
            {"temperature": 0},
            {"temperature": 1.0},
            {"temperature": 0.7, "top_p": 0.9, "n": 2},
            {"temperature": 1.2, "top_k": 40, "min_p": 0.02},
            {"temperature": 0.8, "presence_penalty": 0.5, "frequency_penalty": 0.2},
            {"temperature": 1.0, "stop": ["\n\n", "return"], "logit_bias": {"199": -2}},
        ]
    )
    return body


def told(server: Served, body: dict[str, Any]) -> list[Any]:
    answer = server.http.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    return [found["system_fingerprint"], found["choices"]]


@pytest.mark.skipif(not machine.NATIVE_AVAILABLE, reason="installed without a C++ compiler")
def test_what_was_told_under_load_is_told_alone(llm: LLM) -> None:
    random = Random(14)
    bodies = [drawn(random) for _ in range(NUM_REQUESTS)]
    with served(llm, max_queue_time=600) as server, ThreadPoolExecutor(32) as threads:
        under_load = list(threads.map(lambda body: told(server, body), bodies))
    again = LLM(prefill_chunk=100, max_batch_size=3)  # as after a restart
    with served(again) as server:
        for number, (body, expected) in enumerate(zip(bodies, under_load, strict=True)):
            if number % 5 == 0:
                again.forget()
            assert told(server, body) == expected, body
