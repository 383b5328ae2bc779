"""Decoding of several sequences after one long prefix: in blocks they share, or each in its own.

    python benchmarks/shared_prefix.py                 # 16 sequences after 8,192 tokens, minutes
    python benchmarks/shared_prefix.py --quantize int8

A model with random weights reads the prefix once and gives it to all slots of one cache; a copy of
that has it in each slot by itself. The two caches then take turns, a few steps each, with the same
tokens: their logits must be the same bits. What is printed beside the times is what a step has to
read at least: the weights, and each block of keys and values once.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from results import write_json

from kept.batch import pack
from kept.bench.shapes import SHAPES
from kept.bench.subject import random_subject
from kept.bench.trace import random_prompt
from kept.cache import Cache, load_cache, make_cache
from kept.machine import describe_machine
from kept.models import CausalLM

STEPS = 4  # timed in each turn, after one that is not
CHUNK = 512


def read(model: CausalLM, cache: Cache, prefix: list[int], slot: int) -> None:
    """Read the prefix into a slot."""
    for begin in range(0, len(prefix), CHUNK):
        chunk = prefix[begin : begin + CHUNK]
        model.run(pack([chunk], past=[begin], slots=[slot], last_of=[True]), cache)


def filled(
    model: CausalLM, prefix: list[int], num: int, kv_dtype: str, folder: Path
) -> dict[str, Cache]:
    """Two caches with the prefix in each of `num` slots: in the same blocks, and in own ones."""
    print(f"reading {len(prefix):,} tokens", file=sys.stderr, flush=True)
    shared = make_cache(model.kv_shapes, num_slots=num, dtype=torch.bfloat16, kv_dtype=kv_dtype)
    read(model, shared, prefix, 0)
    one = shared.num_bytes
    shared.select([0] * num)
    shared.save(folder / "cache")  # in files each slot has its own
    own = load_cache(folder / "cache", model.kv_shapes)
    assert own.num_bytes > one * (num - 1)
    return {"shared": shared, "own": own}


def measure(given: argparse.Namespace) -> tuple[dict[str, list[float]], int, int]:
    """Seconds of each timed step by cache; bytes of the weights and of one prefix."""
    subject = random_subject(given.shape, "bfloat16", quantize=given.quantize)
    model = subject.model
    prefix = random_prompt(model.config.vocab_size, given.prefix, seed=0)
    with torch.inference_mode():
        with TemporaryDirectory() as folder:
            caches = filled(model, prefix, given.sequences, given.kv_dtype, Path(folder))
        num_bytes = caches["shared"].num_bytes
        found: dict[str, list[float]] = {name: [] for name in caches}
        length = given.prefix
        for turn in range(given.turns):
            seen = []
            for name, cache in caches.items():
                logits = torch.empty(0)
                for step in range(STEPS + 1):
                    tokens = [[(7 * s + step + turn) % 1000] for s in range(given.sequences)]
                    batch = pack(tokens, past=[length + step] * given.sequences)
                    begin = time.perf_counter()
                    with model.running():
                        logits = model.run(batch, cache)
                    if step:
                        found[name].append(time.perf_counter() - begin)
                seen.append(logits.clone())
            if not torch.equal(*seen):
                raise SystemExit("the two caches gave different logits")
            length += STEPS + 1
    return found, subject.step_weight_bytes, num_bytes


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=sorted(SHAPES), default="qwen2.5-0.5b")
    parser.add_argument("--kv-dtype", default="bfloat16")
    parser.add_argument("--quantize", choices=("int8", "int4"), help="the weights")
    parser.add_argument("--prefix", type=int, default=8192, help="tokens in common")
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found, weights, prefix = measure(given)
    print(f"{given.shape}, {given.sequences} sequences after {given.prefix:,} tokens", end=", ")
    print(describe_machine().cpu)
    print("| blocks | GB a step | median ms a step | tokens/s |\n|---|---|---|---|")
    for name, seconds in found.items():
        read_bytes = weights + prefix * (1 if name == "shared" else given.sequences)
        middle = statistics.median(seconds)
        speed = given.sequences / middle
        print(f"| {name} | {read_bytes / 1e9:.2f} | {1e3 * middle:.1f} | {speed:.1f} |")
    shared, own = (statistics.median(found[name]) for name in ("shared", "own"))
    print(f"together: {own / shared:.2f} times the tokens/s")
    write_json(given, found)


if __name__ == "__main__":
    main()
