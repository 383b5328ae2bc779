"""Measures one peer in that peer's own Python; started by the sitting, one process a measurement.

    PEER/bin/python worker.py '{"peer": "openvino", "model": ..., "prompt": 128, "new": 64, ...}'

The last line of its output is JSON: what ran, and when each token of each sequence was there.
Needs nothing but the standard library and the peer.
"""

from __future__ import annotations

import importlib
import json
import random
import sys
import time
from dataclasses import dataclass
from typing import Any, Protocol

WARM_UP_TOKENS = 4
IDS_BELOW = 30_000  # a prompt's ids: below the vocabulary of every model measured

Prompts = list[list[int]]
Stamps = list[list[float]]  # [sequence][token]: seconds on the clock of time.perf_counter


@dataclass(frozen=True)
class Job:
    """What to measure: `runs` generations of `new` tokens after `batch` prompts of `prompt` ids.

    model: the folder or file, as this peer reads it. weights, cache: their formats, as bf16, int8
    or int4.
    """

    peer: str
    model: str
    weights: str
    cache: str
    batch: int
    prompt: int
    new: int
    runs: int
    threads: int
    seed: int


class Peer(Protocol):
    """A model held by a peer. facts: its version, and the formats that really run."""

    facts: dict[str, Any]

    def generate(self, prompts: Prompts, new: int) -> Stamps:
        """Draw exactly `new` tokens greedily for each prompt, nothing ending the text early."""


def measure(job: Job, peer: Peer) -> list[dict[str, Any]]:
    """Warm up, then time every run; each has prompts of its own, so that none is remembered."""
    draw = random.Random(job.seed)

    def prompts() -> Prompts:
        return [[draw.randrange(1, IDS_BELOW) for _ in range(job.prompt)] for _ in range(job.batch)]

    peer.generate(prompts(), min(job.new, WARM_UP_TOKENS))
    runs = []
    for _ in range(job.runs):
        given = prompts()
        start = time.perf_counter()
        stamps = peer.generate(given, job.new)
        seconds = time.perf_counter() - start
        check(job, stamps)
        runs.append(
            {"seconds": seconds, "stamps": [[round(t - start, 7) for t in row] for row in stamps]}
        )
    return runs


def check(job: Job, stamps: Stamps) -> None:
    """A text that ended early would look fast."""
    counts = [len(row) for row in stamps]
    if counts != [job.new] * job.batch:
        raise SystemExit(
            f"{job.peer} drew {counts} tokens where {job.batch} times {job.new} were asked for"
        )


def main() -> None:
    """Measure what the first argument says, and print it."""
    job = Job(**json.loads(sys.argv[1]))
    peer: Peer = importlib.import_module(f"peer_{job.peer}").load(job)
    runs = measure(job, peer)
    print("\n" + json.dumps({"facts": peer.facts, "runs": runs}), flush=True)


if __name__ == "__main__":
    main()
