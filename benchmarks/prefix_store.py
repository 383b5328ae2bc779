"""What a prefix store saves and costs: hits after a restart, texts that go on, and gaps meanwhile.

    python benchmarks/prefix_store.py hits             # 1,800 + 80 and 8,192 + 80 tokens
    python benchmarks/prefix_store.py hits --disk 0.5  # the same from a disk of 0.5 GB/s
    python benchmarks/prefix_store.py resume           # texts of 512 to 4,096 tokens that go on
    python benchmarks/prefix_store.py gaps             # between tokens, with and without it

Random weights of a published shape, saved as a checkpoint and loaded from there. A miss is a prompt
that nobody has sent; a hit begins with as many tokens as one before it, whose keys are in files
alone: memory has forgotten them (`LLM.forget`), which is what a restart leaves. What is timed is
the time to the first token, all of it: looking names up, waiting for the reads, verifying, and
computing what is left. Misses and hits take turns. `hits` ends with a process of its own, which
loads the model and asks once more.

`--disk` has the calls that read take as long as on a disk of so many GB/s, all threads together:
a simulation, as the files are in the page cache.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from results import write_json

from kept import LLM
from kept.bench.random_weights import random_model, save_checkpoint
from kept.bench.shapes import SHAPES, shape_config
from kept.bench.trace import random_prompt
from kept.machine import describe_machine
from kept.store import Disk

NEW = 80  # tokens behind what is stored
LENGTHS = {"hits": (1800, 8192), "resume": (512, 1024, 2048, 4096)}


class SlowDisk(Disk):
    """Reads no faster than so many bytes a second, all threads together."""

    def __init__(self, rate: float) -> None:
        self._rate, self._lock = rate, threading.Lock()

    def read(self, file: int, buffers: Sequence[memoryview], offset: int) -> int:
        """See `Disk.read`."""
        with self._lock:
            begin = time.perf_counter()
            found = super().read(file, buffers, offset)
            left = found / self._rate - (time.perf_counter() - begin)
            if left > 0:
                time.sleep(left)
            return found


@contextmanager
def checkpoint(shape: str) -> Iterator[Path]:
    """A folder with random weights of a shape."""
    with TemporaryDirectory() as name:
        config = shape_config(shape)
        save_checkpoint(random_model(config, torch.bfloat16, seed=0), config, Path(name))
        yield Path(name)


def first_token(llm: LLM, prompt: list[int]) -> tuple[float, dict[str, int]]:
    """Seconds to the first token, and where the prompt's keys came from."""
    [found] = llm.generate(prompt, max_new_tokens=1, do_sample=False, ignore_eos=True)
    assert found.time_to_first_token is not None
    return found.time_to_first_token, dict(found.cached_from)


def prompts(llm: LLM, length: int, seed: int) -> tuple[list[int], list[int], list[int]]:
    """A prefix, and two ways to go on."""
    drawn = random_prompt(llm.model.config.vocab_size, length + 2 * NEW, seed=seed + 100 * length)
    return drawn[:length], drawn[length : length + NEW], drawn[length + NEW :]


def hits(llm: LLM, given: argparse.Namespace, restart: list[str]) -> dict[str, list[float]]:
    """Times of misses and hits by prefix."""
    found: dict[str, list[float]] = {}
    for length in given.lengths or LENGTHS[given.what]:
        for run in range(given.runs):
            prefix, first, second = prompts(llm, length, run)
            if given.what == "resume":
                first = second = []
            miss, cached = first_token(llm, prefix + first)
            assert not cached, cached
            assert llm.store is not None
            assert llm.store.flush()
            llm.forget()
            hit, cached = first_token(llm, prefix + second)
            assert cached == {"store": length - (not second)}, cached
            llm.forget()
            found.setdefault(f"{length} miss", []).append(miss)
            found.setdefault(f"{length} hit", []).append(hit)
        if given.what == "hits":
            assert llm.store is not None
            assert llm.store.flush()
            line = [*restart, json.dumps(prefix + second[::-1])]
            found[f"{length} restart"] = [float(subprocess.check_output(line).split()[-1])]
    return found


def report_hits(found: dict[str, list[float]]) -> None:
    """Print a row for each prefix."""
    print("| tokens | computed anew | read | share | in a new process |\n|---|---|---|---|---|")
    for length in dict.fromkeys(name.split()[0] for name in found):
        miss = statistics.median(found[f"{length} miss"])
        hit = statistics.median(found[f"{length} hit"])
        again = found.get(f"{length} restart")
        last = "-" if again is None else f"{1e3 * again[0]:.0f} ms, {again[0] / miss:.2%}"
        cells = f"{1e3 * miss:.0f} ms | {1e3 * hit:.1f} ms | {hit / miss:.2%} | {last}"
        print(f"| {int(length):,} | {cells} |")


def gaps(folder: Path, store: Path, given: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds between the tokens of several texts, each of which everybody sees, with and without a
    store that takes in what they compute."""
    llms = {"off": LLM(folder), "on": LLM(folder, prefix_store=store)}
    vocab = llms["on"].model.config.vocab_size
    found: dict[str, list[float]] = {"off": [], "on": []}
    for run in range(given.runs + 1):
        for name, llm in llms.items():
            asked = [random_prompt(vocab, 256, seed=100 * run + i) for i in range(given.sequences)]
            times: list[float] = []
            llm.generate(
                asked,
                max_new_tokens=given.new,
                do_sample=False,
                ignore_eos=True,
                progress=lambda done, total, times=times: times.append(time.perf_counter()),
            )
            pairs = list(pairwise(times))[-given.new + 4 :]
            if run:
                found[name] += [b - a for a, b in pairs]
            llm.forget()
    assert llms["on"].store is not None
    assert llms["on"].store.flush()
    print(llms["on"].store.describe().partition(": ")[2], file=sys.stderr)
    return found


def report_gaps(found: dict[str, list[float]]) -> None:
    """Print a row for the store off and on."""
    print("| store | gaps | median | p99 | largest |\n|---|---|---|---|---|")
    last = {}
    for name, seconds in found.items():
        ordered = sorted(seconds)
        last[name] = ordered[int(0.99 * len(ordered))]
        cells = [statistics.median(ordered), last[name], ordered[-1]]
        print(
            f"| {name} | {len(ordered):,} | "
            + " | ".join(f"{1e3 * x:.2f} ms" for x in cells)
            + " |"
        )
    print(f"p99 with the store over without: {last['on'] / last['off']:.3f}")


def restarted(folder: Path, store: Path, prompt: str) -> None:
    """What a process of its own does: load, ask, say how long the first token took."""
    llm = LLM(folder, prefix_store=store)
    first_token(llm, list(range(7, 7 + 40)))  # the weights are mapped, threads there
    print(first_token(llm, json.loads(prompt))[0])


def main() -> None:
    """Measure, print a table, write JSON."""
    if sys.argv[1:2] == ["restarted"]:
        restarted(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("hits", "resume", "gaps"))
    parser.add_argument("--shape", choices=sorted(SHAPES), default="qwen2.5-0.5b")
    parser.add_argument("--lengths", type=int, nargs="*", help="tokens that are stored")
    parser.add_argument("--disk", type=float, help="GB/s of a disk to simulate")
    parser.add_argument("--sequences", type=int, default=8, help="of gaps")
    parser.add_argument("--new", type=int, default=200, help="tokens of each, of gaps")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with checkpoint(given.shape) as folder, TemporaryDirectory(ignore_cleanup_errors=True) as name:
        if given.what == "gaps":
            found = gaps(folder, Path(name), given)
        else:
            llm = LLM(folder, prefix_store=name)
            assert llm.store is not None
            if given.disk is not None:
                llm.store.disk = SlowDisk(1e9 * given.disk)
            again = [sys.executable, __file__, "restarted", str(folder), name]
            first_token(llm, random_prompt(1000, 600, seed=9))
            found = hits(llm, given, again)
    print(f"{given.shape}, {describe_machine().cpu}")
    report_gaps(found) if given.what == "gaps" else report_hits(found)
    write_json(given, found)


if __name__ == "__main__":
    main()
