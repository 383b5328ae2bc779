"""Resident memory of an `LLM` through random requests, against the budget it was given.

    python benchmarks/resident_memory.py                      # 10,000 requests at three budgets
    python benchmarks/resident_memory.py --requests 2000 --budget 32MiB
    python benchmarks/resident_memory.py --model FOLDER --budget 2GiB

Eight threads ask a model for samples, beams and plain texts of random prompts, some of which begin
alike. Unless one is given it is a model of random weights whose keys and values are as large as the
bundled model's and whose layers are narrow, so that requests go by quickly.

What is promised (`kv_memory`) are keys and values: the pages of the pool that are in memory. What
the process has beside them (weights, the tree that finds texts again, what runs, what Python and
the allocators keep) is shown apart, as what it grows by from when 1,000 requests have been answered
and forgotten. Both are looked at every 20 ms. At the end the pool must be empty again.
"""

from __future__ import annotations

import argparse
import json
import mmap
import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from kept import LLM
from kept.bench.random_weights import random_model, save_checkpoint
from kept.bench.resident import resident_bytes
from kept.machine import describe_machine

THREADS = 8
PAGE = mmap.PAGESIZE
WARM_UP = 1000
NARROW = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 512,
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": True,
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip


def ask(llm: LLM, number: int, most_new: int) -> None:
    """One random request."""
    draw = random.Random(number)
    prompt = [draw.randrange(300) for _ in range(draw.randint(1, 300))]
    if draw.random() < 0.4:
        prompt = [*range(100, 100 + draw.choice([64, 100, 200])), *prompt]
    options: dict[str, object] = draw.choice(
        [{}, {"do_sample": True, "seed": number}, {"num_beams": 3},
         {"do_sample": True, "num_return_sequences": 3, "seed": number}]
    )  # fmt: skip
    llm.generate(prompt, max_new_tokens=draw.randint(1, most_new), ignore_eos=True, **options)


def ask_all(llm: LLM, numbers: Iterator[int], most_new: int) -> Iterator[int]:
    """Ask for these in eight threads; yields how many are done, twice a second.

    Each thread takes the next number when it has time for it: ten thousand futures would themselves
    be 18 MB.
    """
    lock, failed, done = threading.Lock(), [], [0] * THREADS

    def work(thread: int) -> None:
        while not failed:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            try:
                ask(llm, number, most_new)
            except BaseException as error:
                failed.append(error)
            done[thread] += 1

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.5)
        yield sum(done)
    if failed:
        raise failed[0]


def pool_range(llm: LLM) -> tuple[int, int]:
    """The addresses between which the blocks of an `LLM` lie that has used one kind of cache."""
    [engine] = llm._engines._engines.values()
    cache = engine._residents._held_cache  # type: ignore[attr-defined]
    every = [part for pool in cache.memories for layer in pool.buffers for part in layer]
    ends = [part.data_ptr() + part.nbytes for part in every]
    return min(part.data_ptr() for part in every), max(ends)


def resident_between(begin: int, end: int) -> int:
    """Bytes of the pages between two addresses that are in memory."""
    first, last = begin // PAGE, -(-end // PAGE)
    with open("/proc/self/pagemap", "rb") as pages:
        pages.seek(8 * first)
        found = np.frombuffer(pages.read(8 * (last - first)), np.uint64)
    return PAGE * int(np.count_nonzero(found >> np.uint64(63)))


class Watch(threading.Thread):
    """Looks at resident memory until it is told to stop: the most of the pool, and of the rest."""

    def __init__(self, pool: tuple[int, int]) -> None:
        super().__init__(daemon=True)
        self.pool = self.beside = self.all = 0
        self._between, self._done = pool, threading.Event()

    def look(self) -> None:
        """Once."""
        every, pool = resident_bytes() or 0, resident_between(*self._between)
        self.pool, self.all = max(self.pool, pool), max(self.all, every)
        self.beside = max(self.beside, every - pool)

    def run(self) -> None:
        while not self._done.wait(0.02):
            self.look()

    def stop(self) -> None:
        self._done.set()
        self.join()


@contextmanager
def model_folder(given: Path | None) -> Iterator[Path]:
    """The model that is given, or a narrow one that is made for this run."""
    if given is not None:
        yield given
        return
    with TemporaryDirectory() as folder:
        save_checkpoint(random_model(NARROW, torch.bfloat16, seed=0), NARROW, Path(folder))
        yield Path(folder)


def measure(folder: Path, budget: str, requests: int, most_new: int) -> dict[str, Any]:
    """The most bytes of the pool, and what the process grows by beside it."""
    llm = LLM(folder, kv_memory=budget)
    promised = llm.kv_memory
    assert promised is not None
    for done in ask_all(llm, islice(count(10**6), WARM_UP), most_new):
        print(
            f"\r{budget}: warming up, {done:,} of {WARM_UP:,}", end="", file=sys.stderr, flush=True
        )
    llm.forget()
    start, halves, begin = Watch(pool_range(llm)), [], time.perf_counter()
    start.look()
    for numbers in (range(requests // 2), range(requests // 2, requests)):
        watch = Watch(pool_range(llm))
        watch.start()
        for done in ask_all(llm, iter(numbers), most_new):
            line = f"\r{budget}: {numbers.start + done:,} of {requests:,}; {watch.pool:,} bytes, "
            line += f"{watch.beside - start.beside:+,} beside"
            print(line, end="", file=sys.stderr, flush=True)
        watch.stop()
        halves.append(watch)
    print(file=sys.stderr)
    seconds = time.perf_counter() - begin
    llm.forget()
    end = Watch(pool_range(llm))
    end.look()
    if llm._engines.room.budget.taken or end.pool > max(start.pool, PAGE):
        raise SystemExit(f"{end.pool:,} bytes of keys and values are left after `forget`")
    return {
        "budget": promised, "requests": requests, "seconds": seconds,
        "pool": max(half.pool for half in halves),
        "beside_by_half": [half.beside - start.beside for half in halves],
        "all": max(half.all for half in halves) - start.all, "left": end.all - start.all,
    }  # fmt: skip


def said(row: dict[str, Any]) -> str:
    """A line for people."""
    promised, (first, second) = row["budget"], row["beside_by_half"]
    return (
        f"{promised:,} bytes promised, {row['requests']:,} requests in {row['seconds']:.0f} s: "
        f"keys and values took at most {row['pool']:,} ({row['pool'] / promised:.2%}), the process "
        f"beside them {first:+,} in the first half and {second:+,} in the second, all of it "
        f"together {row['all'] / promised:.2%} of the promise; left at the end: {row['left']:+,}"
    )


def main() -> None:
    """Measure each budget, print a line for it, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a checkpoint's folder")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--new", type=int, default=48, help="the most tokens that one draws")
    parser.add_argument("--budget", nargs="+", default=["64MiB", "256MiB", "1GiB"])
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    torch.set_num_threads(1)
    machine = describe_machine()
    print(f"{machine.cpu}, {machine.num_cores} cores", flush=True)
    found = []
    with model_folder(given.model) as folder:
        for budget in given.budget:
            row = measure(folder, budget, given.requests, given.new)
            found.append(row)
            print(said(row), flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
