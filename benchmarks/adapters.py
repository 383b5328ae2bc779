"""Decoding with LoRA adapters and without, step by step in turn, over the same weights and cache.

    python benchmarks/adapters.py              # 8 of rank 16 on all linear layers, 16 sequences
    python benchmarks/adapters.py --targets attention --sequences 1,16 --quantize int8

Random weights of a published shape. Sequences go through the adapters in turn. A round repeats
some steps without adapters, then as many with them, from the same lengths; the table has the
medians of all steps, and what adapters add to them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import cycle, islice, pairwise
from pathlib import Path

import torch
from results import write_json

from kept.batch import pack
from kept.bench.random_weights import random_model
from kept.bench.shapes import shape_config
from kept.cache import make_cache
from kept.models import Adapter, CausalLM
from kept.models.adapters import attach
from kept.models.layers import Linear
from kept.models.packing import prepare
from kept.ops import LowRank

TARGETS = {"all": ("",), "attention": (".attention.",)}


def draw_adapter(model: CausalLM, number: int, rank: int, targets: tuple[str, ...]) -> Adapter:
    """One of random bf16 numbers: each matrix of the base that a fused one holds has a pair."""
    random = torch.Generator().manual_seed(number)
    parts = {}
    for home, layer in model.named_modules():
        is_head = layer is model.head or ".experts." in home
        if not isinstance(layer, Linear) or is_head or not any(x in home for x in targets):
            continue
        num_out, num_in = layer.weight.shape
        bounds = [0, num_out]
        if layer.gated:
            bounds = [0, num_out // 2, num_out]
        elif num_out > num_in and home.endswith("qkv"):
            keys = (num_out - num_in) // 2
            bounds = [0, num_in, num_in + keys, num_out]
        parts[home] = tuple(
            LowRank(
                start,
                stop,
                (torch.randn(rank, num_in, generator=random) * num_in**-0.5).bfloat16(),
                (torch.randn(stop - start, rank, generator=random) * 0.01).bfloat16(),
                2.0,
            )
            for start, stop in pairwise(bounds)
        )
    return Adapter(f"{number}", f"{number}", parts)


def measure(model: CausalLM, count: int, given: argparse.Namespace) -> tuple[list[float], ...]:
    """Seconds of each step without adapters, and with them."""
    numbers = tuple(islice(cycle(range(given.adapters)), count))
    cache = make_cache(model.kv_shapes, num_slots=count, dtype=model.dtype)
    prompt = [i % 1000 for i in range(given.context)]
    model.next_logits(pack([prompt] * count, last_of=[1] * count), cache)
    found: tuple[list[float], ...] = [], []
    with model.running():
        for round in range(given.rounds + 1):
            for seconds, adapters in zip(found, ((), numbers), strict=True):
                step = model.repeat(tuple(range(count)), cache, 0, adapters)
                assert step is not None
                for _ in range(given.steps):
                    start = time.perf_counter()
                    step.run([1] * count)
                    if round:  # the first warms up
                        seconds.append(time.perf_counter() - start)
                cache.truncate(given.context)
    return found


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="qwen2.5-0.5b")
    parser.add_argument("--quantize", choices=["int8", "int4"])
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--targets", choices=sorted(TARGETS), default="all")
    parser.add_argument("--sequences", default="16")
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    model = random_model(shape_config(given.shape), torch.bfloat16, 0)
    prepare(model, given.quantize)
    targets = TARGETS[given.targets]
    adapters = [draw_adapter(model, i, given.rank, targets) for i in range(given.adapters)]
    attach(model, adapters)
    added = sum(each.num_parameters for each in adapters) * 2
    print(f"{given.shape}, {given.adapters} adapters of {added / given.adapters / 1e6:.1f} MB")
    times: dict[str, list[float]] = {}
    for count in map(int, given.sequences.split(",")):
        plain, adapted = measure(model, count, given)
        times |= {f"{count} without": plain, f"{count} with": adapted}
        one, other = (statistics.median(x) * 1e3 for x in (plain, adapted))
        print(
            f"{count:4} sequences {one:8.2f} ms without, {other:8.2f} ms with: "
            f"{other / one - 1:+.1%}",
            flush=True,
        )
    write_json(given, times)


if __name__ == "__main__":
    main()
