"""What a burst of streams costs the thread of a server's loop.

kept's, and that of servers without an engine that tell of as many pieces (`bare.py`).
"""

from __future__ import annotations

import math
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from client import Told
from cost import bodies_of, prompts_of
from lean import Client
from serve.process import serving

PAUSE = 0.1  # seconds, the longest that kept keeps a token back


@contextmanager
def bare(kind: str, events: int) -> Iterator[tuple[int, tuple[str, int]]]:
    """A server without an engine: its process, and its address."""
    command = [sys.executable, str(Path(__file__).parent / "bare.py"), kind, str(events)]
    process = subprocess.Popen([*command, str(PAUSE)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield process.pid, ("127.0.0.1", int(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()


def loop_seconds(pid: int) -> float:
    """What the main thread of a process, which has the loop, has computed so far (Linux)."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


def burst(
    given: Namespace, pid: int, address: tuple[str, int], run: int
) -> tuple[float, list[Told]]:
    """Seconds of the loop's thread for all requests at once, and what they heard."""
    requests = bodies_of(given, prompts_of(given, run, given.requests))
    client, before = Client(address), loop_seconds(pid)
    told = [client.ask(data) for data in requests]
    client.hear(math.inf)
    return loop_seconds(pid) - before, told


async def run(given: Namespace) -> dict[str, Any]:
    """Bursts of each in turn; medians."""
    found: dict[str, list[float]] = {"kept": [], "starlette": [], "asyncio": []}
    options = ("--max-batch-size", str(given.requests), "--max-queue-time", "1e6")
    model = (given.model,) if given.model else ()
    with serving(*model, *options, "--no-access-log", "--prefix-store", "off") as server:
        for turn in range(2):  # memory is new
            told = burst(given, server.pid, server.address, turn)[1]
        events = round(sum(len(each.heard) for each in told) / given.requests)
        with bare("starlette", events) as one, bare("asyncio", events) as other:
            servers = {"kept": (server.pid, server.address), "starlette": one, "asyncio": other}
            for turn in range(given.runs):
                for name, (pid, address) in servers.items():
                    found[name].append(burst(given, pid, address, 2 + turn)[0])
    taken = {f"{name}_loop_ms": round(1e3 * median(each), 1) for name, each in found.items()}
    least = median(k / s for k, s in zip(found["kept"], found["starlette"], strict=True))
    return {
        "requests": given.requests,
        "pieces_of_each": events,
        "turns": given.runs,
        **taken,
        "kept_of_starlette": round(least, 3),
        "passed": least <= 1,
    }
