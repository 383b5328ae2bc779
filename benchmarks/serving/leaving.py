"""Clients that leave, and a server that ends."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from argparse import Namespace
from typing import Any

from client import ask
from serve.process import serving
from serve.serving import served

LEAVERS = 500
DRAINED = 64


async def disconnects(given: Namespace) -> dict[str, Any]:
    """500 clients leave while queued, while read, while drawn for, and while nothing streams.

    The server is in this process, so that its engine can be looked at: each time, how many steps
    it took from the last client's leaving until no request held a block.
    """
    from kept import LLM

    llm = LLM(given.model) if given.model else LLM(max_batch_size=16)
    draws, steps, left = random.Random(0), list[int](), 0
    with served(llm, max_queue_time=1e6) as server:
        host, port = server.url.removeprefix("http://").split(":")
        address = host, int(port)
        await ask(address, {"prompt": "x", "max_tokens": 1})
        [engine] = server.service.engines
        counted, step = [0], engine.step

        def counting() -> Any:
            counted[0] += 1
            return step()

        engine.step = counting  # type: ignore[method-assign]
        while left < LEAVERS:
            tasks = []
            for _ in range(50):  # more than run side by side: some are queued
                body = {
                    "prompt": [draws.randrange(4, 1000) for _ in range(draws.randrange(1, 1500))],
                    "max_tokens": 400,
                    "stream": draws.random() < 0.5,
                    "ignore_eos": True,
                }
                tasks.append(asyncio.ensure_future(ask(address, body)))
            await asyncio.sleep(draws.uniform(0.02, 1.5))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            left += len(tasks)
            until = time.monotonic() + 60
            while server.service.admission.num_open:  # the server has yet to hear of some
                assert time.monotonic() < until, "clients that left are not noticed"
                await asyncio.sleep(0.001)
            before = counted[0]
            while engine.has_work:
                assert time.monotonic() < until, "requests of clients that left go on"
                await asyncio.sleep(0.001)
            steps.append(counted[0] - before)
        blocks = engine.snapshot().blocks
        held = 0 if blocks is None else blocks.held
        again = await ask(address, {"prompt": "def f", "max_tokens": 4})
    return {
        "left": left,
        "most_steps_until_free": max(steps),
        "blocks_held": held,
        "passed": max(steps) <= 1 and held == 0 and again.status == 200,
    }


async def drain(given: Namespace) -> dict[str, Any]:
    """SIGTERM while 64 streams are written: /ready says so at once, and all are whole."""
    model = (given.model,) if given.model else ()
    options = ("--max-batch-size", str(DRAINED), "--max-queue-time", "1e6", "--drain-time", "300")
    with serving(*model, *options, "--no-access-log") as server:
        body = {"prompt": "def add", "max_tokens": 400, "ignore_eos": True, "stream": True}
        tasks = [
            asyncio.ensure_future(ask(server.address, {**body, "seed": i, "temperature": 1.0}))
            for i in range(DRAINED)
        ]
        await asyncio.sleep(2.0)
        running = sum(not task.done() for task in tasks)
        server.process.send_signal(signal.SIGTERM)
        began, status = time.monotonic(), 200
        while status == 200:
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            status = int((await reader.readline()).split()[1])
            writer.close()
        noticed = time.monotonic() - began
        refused = await ask(server.address, body)
        told = await asyncio.gather(*tasks)
        while server.process.poll() is None:
            await asyncio.sleep(0.05)
        whole = sum(each.is_whole and each.finish == "length" for each in told)
    return {
        "streams": DRAINED,
        "running_at_signal": running,
        "whole": whole,
        "ready_503_after_ms": round(1e3 * noticed, 1),
        "new_request": refused.status,
        "exit_code": server.process.returncode,
        "passed": whole == DRAINED
        and running > 0
        and status == 503
        and noticed < 0.1
        and refused.status == 503
        and server.process.returncode == 0,
    }
