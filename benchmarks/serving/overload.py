"""Ten times what a server can do: most are refused at once, and those it takes lose nothing."""

from __future__ import annotations

import asyncio
import random
import time
from argparse import Namespace
from typing import Any

from client import ask, percentile
from serve.process import serving

SLOTS = 16
TIMES = 10


def body_of(number: int) -> dict[str, Any]:
    draws = random.Random(number)
    return {
        "prompt": [draws.randrange(4, 1000) for _ in range(64)],
        "max_tokens": 128,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }


async def run(given: Namespace) -> dict[str, Any]:
    """Capacity by as many clients as there are slots, then ten times that at random times."""
    model = (given.model,) if given.model else ()
    options = ("--max-batch-size", str(SLOTS), "--max-queue-time", "2", "--no-access-log")
    with serving(*model, *options) as server:
        number = 0

        async def turn(until: float) -> int:
            nonlocal number
            done = 0
            while time.monotonic() < until:
                number += 1
                done += (await ask(server.address, body_of(number))).is_whole
            return done

        await asyncio.gather(*(turn(time.monotonic() + 5) for _ in range(SLOTS)))
        seconds = 30 * given.minutes
        began = time.monotonic()
        counts = await asyncio.gather(*(turn(began + seconds) for _ in range(SLOTS)))
        capacity = sum(counts) / (time.monotonic() - began)

        draws, tasks = random.Random(0), list[asyncio.Task[Any]]()
        began = time.monotonic()
        at = began
        while at < began + seconds:
            at += draws.expovariate(TIMES * capacity)
            await asyncio.sleep(max(at - time.monotonic(), 0))
            number += 1
            tasks.append(asyncio.create_task(ask(server.address, body_of(number))))
        told = await asyncio.gather(*tasks)
        taken = [each for each in told if each.status == 200]
        refused = [each for each in told if each.status == 429]
        last = began + seconds
        # What is answered while others are turned away; what is queued at the end is not cut.
        goodput = len(taken) / (time.monotonic() - began)
        late = percentile([each.seconds for each in refused], 0.99)
    share = goodput / capacity
    return {
        "capacity_per_s": round(capacity, 2),
        "offered_per_s": round(len(told) / (last - began), 2),
        "goodput_of_capacity": round(share, 4),
        "refused": len(refused),
        "refused_p99_ms": round(1e3 * late, 1),
        "cut": sum(not each.is_whole for each in taken),
        "other": len(told) - len(taken) - len(refused),
        "passed": late < 0.1
        and share >= 0.95
        and all(each.is_whole for each in taken)
        and len(taken) + len(refused) == len(told),
    }
