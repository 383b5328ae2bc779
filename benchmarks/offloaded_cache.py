"""Generating with keys and values in files: the same text, and how much slower.

    python benchmarks/offloaded_cache.py --model FOLDER --prompt-tokens 4096 --folder /var/tmp

The cache in files may hold the given part of all keys and values in memory. Prompt and new tokens
are the same as with the cache in memory; the prompt's ids are random.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from pathlib import Path

from kept import LLM, Completion
from kept.format import format_bytes, format_seconds
from kept.ops import find_kv_codec


def main() -> None:
    """Measure in turn, and print a line for each and the ratio."""
    asked = _arguments()
    plain = LLM(asked.model)
    random.seed(0)
    limit = plain.model.config.vocab_size
    prompt = [random.randrange(limit) for _ in range(asked.prompt_tokens)]
    whole = _run(plain, prompt, asked.new)
    codec = find_kv_codec(plain.model.dtype)
    held = sum(shape.num_bytes(codec) for shape in plain.model.kv_shapes) * (
        len(prompt) + asked.new
    )
    budget = round(held * asked.share)
    offloaded = LLM(asked.model, offload_folder=asked.folder, offload_memory=budget)
    steps: dict[str, list[float]] = {"in memory": [], "in files": []}
    for _ in range(asked.runs):
        for name, llm in (("in memory", plain), ("in files", offloaded)):
            found = _run(llm, prompt, asked.new)
            if found.token_ids != whole.token_ids:
                raise SystemExit(f"{name}: the tokens differ")
            assert found.tokens_per_second is not None
            steps[name].append(1 / found.tokens_per_second)
    print(f"{asked.prompt_tokens} tokens and {asked.new} new: {format_bytes(held)}")
    print(f"of these in memory, at most: {format_bytes(budget)}; the same tokens every time")
    for name, seconds in steps.items():
        print(f"{name}: {format_seconds(statistics.median(seconds))} a token")
    memory, files = (statistics.median(seconds) for seconds in steps.values())
    print(f"ratio: {files / memory:.2f}")


def _run(llm: LLM, prompt: list[int], new: int) -> Completion:
    start = time.perf_counter()
    [found] = llm.generate([prompt], max_new_tokens=new, do_sample=False, ignore_eos=True)
    print(f"  {time.perf_counter() - start:.2f} s", flush=True)
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a folder or hub id; default: the bundled model")
    parser.add_argument("--prompt-tokens", type=int, default=1500)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--share", type=float, default=0.5, help="of the cache, in memory")
    parser.add_argument("--folder", type=Path, required=True, help="on a disk")
    parser.add_argument("--runs", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
