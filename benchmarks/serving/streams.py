"""Many streams for a long time: none lost, none cut, none in another order; flat memory."""

from __future__ import annotations

import asyncio
import random
import time
from argparse import Namespace
from collections import Counter
from typing import Any

from client import Told, ask, percentile
from serve.process import resident, serving

TEXTS = 32  # different requests, each of which has one right answer
ALLOWED = 32 << 20  # bytes by which the server's memory may grow after a fifth of the time


def body_of(number: int) -> dict[str, Any]:
    """A request whose answer is the same whenever it is asked, as it has a seed."""
    draws = random.Random(number)
    prompt = [draws.randrange(4, 1000) for _ in range(draws.randrange(1, 200))]
    return {
        "prompt": prompt,
        "max_tokens": draws.randrange(16, 200),
        "temperature": 0.8,
        "seed": number,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def run(given: Namespace) -> dict[str, Any]:
    """`--streams` at a time for `--minutes`, each compared with the same request alone."""
    model = (given.model,) if given.model else ()
    options = ("--max-batch-size", "64", "--max-queue-time", "1e6", "--no-access-log")
    with serving(*model, *options) as server:
        alone = [await ask(server.address, body_of(i)) for i in range(TEXTS)]
        assert all(told.is_whole for told in alone), [told.error for told in alone]
        wrong, gaps, number = Counter[str](), list[float](), 0
        seconds = 60 * given.minutes
        until = time.monotonic() + seconds

        async def one(worker: int) -> None:
            nonlocal number
            draws = random.Random(worker)
            while time.monotonic() < until:
                which = draws.randrange(TEXTS)
                told = await ask(server.address, body_of(which))
                number += 1
                gaps.extend(b - a for a, b in zip(told.at, told.at[1:], strict=False))
                if problem := compare(told, alone[which]):
                    wrong[problem] += 1

        async def warm() -> int:
            await asyncio.sleep(seconds / 5)
            return resident(server.pid)

        began = time.monotonic()
        at_first, *_ = await asyncio.gather(warm(), *(one(i) for i in range(given.streams)))
        grown = resident(server.pid) - at_first
        return {
            "streams": number,
            "at_a_time": given.streams,
            "seconds": round(time.monotonic() - began, 1),
            "wrong": dict(wrong),
            "gap_p99_ms": round(1e3 * percentile(gaps, 0.99), 1),
            "resident_mib": round(at_first / 2**20, 1),
            "grown_mib": round(grown / 2**20, 1),
            "passed": not wrong and number > 0 and grown <= ALLOWED,
        }


def compare(told: Told, alone: Told) -> str:
    """What is wrong with an answer, nothing where it is the right one."""
    if not told.is_whole:
        return f"cut: {told.status} {told.error}"
    if told.text != alone.text:
        return "another text"
    if told.usage["completion_tokens"] != alone.usage["completion_tokens"]:
        return "tokens lost"
    return "" if told.finish == "length" else f"finished by {told.finish}"
