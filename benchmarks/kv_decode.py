"""Decoding over keys and values in each format, in turn within one process.

    python benchmarks/kv_decode.py                                   # a minute
    python benchmarks/kv_decode.py --shape llama-3.2-1b --turns 10   # needs 4 GiB, some minutes

A model with random weights reads the same prompt once for each format; then the formats take turns,
a few steps each, so that a machine whose bandwidth changes within minutes treats them alike.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from results import write_json

from kept.bench.shapes import SHAPES
from kept.bench.subject import random_subject
from kept.bench.trace import greedy, random_prompt, timed_steps
from kept.machine import describe_machine

STEPS = 5  # timed in each turn, after one that is not


def measure(
    shape: str, formats: list[str], context: int, turns: int, quantize: str | None
) -> dict[str, list[float]]:
    """Seconds of each timed step by format."""
    model = random_subject(shape, "bfloat16", quantize=quantize).model
    prompt = random_prompt(model.config.vocab_size, context, seed=0)
    running = {}
    for name in formats:
        print(f"reading {context:,} tokens into {name}", file=sys.stderr, flush=True)
        generation = greedy(model, [prompt], turns * (STEPS + 1) + 1, kv_dtype=name)
        [continuation] = generation.continuations
        steps = timed_steps(generation)
        while continuation.history.num_generated == 0:
            next(steps)
        running[name] = steps
    found: dict[str, list[float]] = {name: [] for name in formats}
    for _ in range(turns):
        for name, steps in running.items():
            next(steps)
            found[name] += [next(steps) for _ in range(STEPS)]
    return found


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=sorted(SHAPES), default="qwen2.5-0.5b")
    parser.add_argument("--formats", default="bfloat16,int8,k8v4,int4")
    parser.add_argument("--context", type=int, default=8192, help="tokens of the prompt")
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--quantize", choices=("int8", "int4"), help="the weights")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    formats = given.formats.split(",")
    found = measure(given.shape, formats, given.context, given.turns, given.quantize)
    print(f"{given.shape}, {given.context:,} tokens cached, {describe_machine().cpu}")
    print("| keys and values | median ms a token | p10 | p90 |\n|---|---|---|---|")
    for name, seconds in found.items():
        tenths = statistics.quantiles(seconds, n=10)
        middle = statistics.median(seconds)
        print(f"| {name} | {1e3 * middle:.2f} | {1e3 * tenths[0]:.2f} | {1e3 * tenths[-1]:.2f} |")
    write_json(given, found)


if __name__ == "__main__":
    main()
