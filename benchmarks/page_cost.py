"""What an open page costs a server under 64 streams: tokens a second with and without a listener.

    python benchmarks/page_cost.py [--streams 64] [--seconds 6] [--rounds 4]

Clients and server share one process. Rounds with and without a listener take turns, so that what
else the machine does meets both alike; the share lost is of the medians.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from typing import Any

import httpx2
import uvicorn

from kept import LLM
from kept.serve.running import address_of, bind, server_of
from kept.serve.service import Service
from kept.serve.settings import Settings

PROMPT = "class Reader:\n    def read(self, size):\n        return self.file.read(size)\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=4)
    given = parser.parse_args()
    settings = Settings(port=0, max_batch_size=given.streams, access_log=False)
    service = Service(LLM(max_batch_size=given.streams), settings)
    listener = bind(settings)
    server = server_of(service, is_local=True)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    stop = threading.Event()
    clients = [
        threading.Thread(target=ask, args=(address_of(listener), number, stop), daemon=True)
        for number in range(given.streams)
    ]
    for client in clients:
        client.start()
    while len(service.engines) < 1 or service.engines[0].counters.generated_tokens < 500:
        time.sleep(0.05)
    rates: dict[bool, list[float]] = {False: [], True: []}
    events = 0
    for number in range(2 * given.rounds):
        looks = bool((number + number // 2) % 2)
        rate, count = measure(service, server, address_of(listener), given.seconds, looks)
        rates[looks].append(rate)
        events += count
    stop.set()
    without, with_one = (statistics.median(rates[looks]) for looks in (False, True))
    print(f"without: {without:,.0f} tokens/s {[round(x) for x in rates[False]]}")
    print(f"with:    {with_one:,.0f} tokens/s {[round(x) for x in rates[True]]}, {events} events")
    print(f"lost:    {100 * (1 - with_one / without):.1f}%")


def ask(url: str, number: int, stop: threading.Event) -> None:
    """Keep a stream open, one after the other."""
    with httpx2.Client(base_url=url, timeout=120) as client:
        count = 0
        while not stop.is_set():
            count += 1
            body: dict[str, Any] = {
                "prompt": f"{PROMPT}# {number} {count}\n",
                "max_tokens": 400,
                "ignore_eos": True,
                "stream": True,
            }
            with client.stream("POST", "/v1/completions", json=body) as answer:
                for _ in answer.iter_lines():
                    if stop.is_set():
                        return


def measure(
    service: Service, server: uvicorn.Server, url: str, seconds: float, looks: bool
) -> tuple[float, int]:
    """Tokens a second, and the events that a listener was told meanwhile."""
    stop, count = threading.Event(), [0]

    def listen() -> None:
        with (
            httpx2.Client(base_url=url, timeout=60) as client,
            client.stream("GET", "/kept/live") as answer,
        ):
            for line in answer.iter_lines():
                count[0] += line.startswith("data: ")
                if stop.is_set():
                    return

    listener = threading.Thread(target=listen, daemon=True)
    if looks:
        listener.start()
        time.sleep(0.3)
    counters = service.engines[0].counters
    before, began = counters.generated_tokens, time.perf_counter()
    time.sleep(seconds)
    rate = (counters.generated_tokens - before) / (time.perf_counter() - began)
    stop.set()
    if looks:
        listener.join(5)
    return rate, count[0]


if __name__ == "__main__":
    main()
