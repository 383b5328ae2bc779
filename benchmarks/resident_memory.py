"""Resident memory of an `LLM` through random requests, against the budget it was given.

    python benchmarks/resident_memory.py                      # 10,000 requests at three budgets
    python benchmarks/resident_memory.py --requests 300 --budget 32MiB

Eight threads ask the bundled model for samples, beams and plain texts of random prompts, some of
which begin alike. What the process has without keys and values is read after a warm-up, when the
pool is empty; the most it has beyond that, looked at every 5 ms, is what the budget is held to. At
the end the pool must be empty again.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from kept import LLM
from kept.bench.resident import resident_bytes
from kept.machine import describe_machine

THREADS = 8
WARM_UP = 300


def ask(llm: LLM, number: int) -> None:
    """One random request."""
    draw = random.Random(number)
    prompt = [draw.randrange(300) for _ in range(draw.randint(1, 300))]
    if draw.random() < 0.4:
        prompt = [*range(100, 100 + draw.choice([64, 100, 200])), *prompt]
    options: dict[str, object] = draw.choice(
        [{}, {"do_sample": True, "seed": number}, {"num_beams": 3},
         {"do_sample": True, "num_return_sequences": 3, "seed": number}]
    )  # fmt: skip
    llm.generate(prompt, max_new_tokens=draw.randint(1, 48), ignore_eos=True, **options)


class Watch(threading.Thread):
    """Looks at the process's resident memory until it is told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self._done = 0, threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.005):
            self.most = max(self.most, resident_bytes() or 0)

    def stop(self) -> int:
        """The most bytes seen."""
        self._done.set()
        self.join()
        return self.most


def measure(budget: str, requests: int) -> dict[str, object]:
    """Resident bytes before, at the most and after, beyond what an empty pool leaves."""
    llm = LLM(kv_memory=budget)
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda n: ask(llm, n), range(10**6, 10**6 + WARM_UP)))
        llm.forget()
        empty = resident_bytes() or 0
        watch, begin = Watch(), time.perf_counter()
        watch.start()
        for done, _ in enumerate(threads.map(lambda n: ask(llm, n), range(requests)), 1):
            if done % 250 == 0:
                print(f"\r{budget}: {done:,} of {requests:,}", end="", file=sys.stderr, flush=True)
        most, seconds = watch.stop(), time.perf_counter() - begin
    print(file=sys.stderr)
    llm.forget()
    after = resident_bytes() or 0
    promised = llm.kv_memory
    assert promised is not None
    return {
        "budget": promised, "requests": requests, "seconds": seconds, "empty": empty,
        "most": most - empty, "of_budget": (most - empty) / promised, "left": after - empty,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--budget", nargs="+", default=["32MiB", "64MiB", "128MiB"])
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    torch.set_num_threads(1)
    machine = describe_machine()
    print(f"{machine.cpu}, {machine.num_cores} cores")
    found = [measure(budget, given.requests) for budget in given.budget]
    for row in found:
        print(
            f"{row['budget']:>12,} bytes promised, {row['requests']:,} requests: at most "
            f"{row['of_budget']:.1%} of that, {row['left']:,} bytes left after `forget`"
        )
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
