"""Ten times what a server can do: most are refused at once, and those it takes lose nothing.

Asking takes processors too, which no server can give to its texts. So capacity is measured twice:
by as many clients as there are slots, and by these while all that is to be refused goes to a server
that does nothing (`nothing.py`). Answers differ in length, so that they end one by one in each.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from client import Told, percentile
from lean import Client, made, read
from serve.process import serving

SLOTS = 16
TIMES = 10
WARM = 5.0  # seconds


def request_of(number: int) -> bytes:
    draws = random.Random(number)
    return made(
        {
            "prompt": [draws.randrange(4, 1000) for _ in range(64)],
            "max_tokens": draws.randrange(64, 193),
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
    )


class Clients:
    """As many as there are slots, each of which asks again once it has its answer."""

    def __init__(self, client: Client, numbers: Iterator[int], seconds: float) -> None:
        self._client, self._numbers = client, numbers
        self.began = time.perf_counter()
        self.until = self.began + seconds
        self._done: list[Told] = []
        for _ in range(SLOTS):
            self._ask()

    @property
    def rate(self) -> float:
        """Whole answers a second, of those that ended in time."""
        return sum(read(told).is_whole for told in self._done) / (self.until - self.began)

    def _ask(self) -> None:
        self._client.ask(request_of(next(self._numbers)), self._take)

    def _take(self, told: Told) -> None:
        if time.perf_counter() < self.until:
            self._done.append(told)
            self._ask()


def arrivals(rate: float, seconds: float, numbers: Iterator[int]) -> list[tuple[float, bytes]]:
    """Requests and the seconds at which they are due, at random."""
    draws, found, at = random.Random(0), list[tuple[float, bytes]](), 0.0
    while (at := at + draws.expovariate(rate)) < seconds:
        found.append((at, request_of(next(numbers))))
    return found


async def run(given: Namespace) -> dict[str, Any]:
    """Capacity, capacity beside what is refused elsewhere, and overload, for as long each."""
    model = (given.model,) if given.model else ()
    options = ("--max-batch-size", str(SLOTS), "--max-queue-time", "2", "--no-access-log")
    seconds, numbers = 20 * given.minutes, count()
    with serving(*model, *options) as server, nothing() as elsewhere:
        client = Client(server.address)
        for wait in (WARM, seconds):
            alone = Clients(client, numbers, wait)
            client.hear(alone.until + 60)
        capacity = alone.rate

        # Those that are taken go to the server in any case.
        due = arrivals((TIMES - 1) * capacity, seconds, numbers)
        beside = Clients(client, numbers, seconds)
        client.send(((beside.began + at, data) for at, data in due), elsewhere)
        client.hear(beside.until + 60)
        left = beside.rate

        due = arrivals(TIMES * capacity, seconds, numbers)
        began = time.perf_counter()
        told = client.send((began + at, data) for at, data in due)
        client.hear(began + seconds + 60)
        ended = time.perf_counter()
    for each in told:
        read(each)
    taken = [each for each in told if each.status == 200]
    refused = [each for each in told if each.status == 429]
    late = percentile([each.seconds for each in refused], 0.99)
    goodput = len(taken) / (ended - began)
    return {
        "capacity_per_s": round(capacity, 2),
        "capacity_beside_asking_per_s": round(left, 2),
        "offered_per_s": round(len(told) / seconds, 2),
        "goodput_of_capacity": round(goodput / capacity, 4),
        "goodput_of_capacity_beside_asking": round(goodput / left, 4),
        "refused": len(refused),
        "refused_p99_ms": round(1e3 * late, 1),
        "cut": sum(not each.is_whole for each in taken),
        "other": len(told) - len(taken) - len(refused),
        "passed": late < 0.1
        and goodput / left >= 0.95
        and all(each.is_whole for each in taken)
        and len(taken) + len(refused) == len(told),
    }


@contextmanager
def nothing() -> Iterator[tuple[str, int]]:
    """The address of the server that turns everything away."""
    command = [sys.executable, str(Path(__file__).with_name("nothing.py"))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield "127.0.0.1", int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
