"""transformers' caches beside kept's in a transformers model: time a token, and memory.

    python benchmarks/transformers_cache.py --json t.json --png t.png     # some minutes
    python benchmarks/transformers_cache.py --lengths 512,1024 --steps 8  # a try

A random Llama (no download) decodes one token at a time over caches that hold from 1k to 16k
random keys and values. At one length, `--quantized-at`, transformers' quantized caches join in,
those of quanto and hqq if they are installed, and kept's own engine over the same weights and a
prompt of so many tokens. Every cache at every length has a process of its own,
so that peak memory is its own; they take turns, `--runs` times.

What is timed is a whole step of the model: the pass and the choice of the likeliest token. Memory
is what the process's peak rises by from when the model is loaded: the cache, and what a step takes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import kept
from kept.bench.trace import greedy, random_prompt, timed_steps
from kept.machine import describe_machine

SHAPES = {
    "small": {
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    },
    "0.5b": {
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
    },
}
VOCABULARY = 8192
MIB = 1 << 20
TRANSFORMERS, KEPT, ENGINE = "transformers", "kept", "kept's engine"


@dataclass(frozen=True)
class Contestant:
    """A cache and the attention over it. kv: what it stores; "model": the model's dtype."""

    name: str
    maker: str
    attention: str
    kv: str
    needs: str = ""  # a package

    def make(self, config: Any) -> Any:
        """An empty cache for models of this config."""
        if self.maker == KEPT:
            from kept.integrations.transformers import KeptCache

            return KeptCache.from_config(config, kv_dtype=None if self.kv == "model" else self.kv)
        from transformers import DynamicCache, QuantizedCache

        if self.kv == "model":
            return DynamicCache(config=config)
        backend, bits = self.kv.split("-")
        axis = 1 if backend == "hqq" else 0  # what each of them takes
        return QuantizedCache(backend, config, nbits=int(bits), axis_key=axis, axis_value=axis)


GROWING = (
    Contestant("DynamicCache, sdpa", TRANSFORMERS, "sdpa", "model"),
    Contestant("KeptCache, sdpa", KEPT, "sdpa", "model"),
    Contestant("KeptCache, kept", KEPT, "kept", "model"),
    Contestant("KeptCache int8, kept", KEPT, "kept", "int8"),
    Contestant("KeptCache int4, kept", KEPT, "kept", "int4"),
)
QUANTIZED = (
    Contestant("KeptCache int8, sdpa", KEPT, "sdpa", "int8"),
    Contestant("QuantizedCache quanto 4 bits", TRANSFORMERS, "sdpa", "quanto-4", "optimum.quanto"),
    Contestant("QuantizedCache hqq 4 bits", TRANSFORMERS, "sdpa", "hqq-4", "hqq"),
    Contestant("QuantizedCache hqq 8 bits", TRANSFORMERS, "sdpa", "hqq-8", "hqq"),
    Contestant("kept.LLM", ENGINE, "", "model"),
    Contestant("kept.LLM int8", ENGINE, "", "int8"),
    Contestant("kept.LLM int4", ENGINE, "", "int4"),
)


@dataclass(frozen=True)
class Settings:
    """Of a run of the benchmark."""

    shape: str
    dtype: str
    batch: int
    steps: int
    threads: int


# One cache at one length, in a process of its own


@torch.no_grad()
def measure(contestant: Contestant, length: int, settings: Settings) -> dict[str, Any]:
    """Seconds of each step after the first, and bytes of memory."""
    import transformers

    import_module("kept.integrations.transformers")  # registers the attention
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=length + settings.steps + 8,
        **SHAPES[settings.shape],
    )
    dtype = getattr(torch, settings.dtype)
    if contestant.maker == ENGINE:
        return measure_engine(contestant, config, dtype, length, settings)
    model = transformers.AutoModelForCausalLM.from_config(
        config, dtype=dtype, attn_implementation=contestant.attention
    ).eval()
    token = torch.zeros(settings.batch, 1, dtype=torch.int64)
    model(token, use_cache=False)  # what the first pass sets up is no part of a cache
    before, start_peak = resident(), reset_peak()
    cache = contestant.make(model.config)
    fill(cache, config, length, settings.batch, dtype)
    filled = resident() - before
    start_peak()
    seconds = []
    for _ in range(settings.steps + 2):
        start = time.perf_counter()
        logits = model(token, past_key_values=cache).logits
        token = logits[:, -1:].argmax(-1)
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds[2:], "filled_bytes": filled, "peak_bytes": peak() - before}


def measure_engine(
    contestant: Contestant, config: Any, dtype: torch.dtype, length: int, settings: Settings
) -> dict[str, Any]:
    """The same of kept's engine. Its memory has that of reading the prompt in it."""
    import transformers

    with TemporaryDirectory() as folder:
        transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder)
        model = kept.LLM(folder).model
    before, start_peak = resident(), reset_peak()
    start_peak()
    prompts = [random_prompt(VOCABULARY, length, seed) for seed in range(settings.batch)]
    kv_dtype = None if contestant.kv == "model" else contestant.kv
    generation = greedy(model, prompts, settings.steps + 2, kv_dtype=kv_dtype)
    [*_, last] = generation.continuations
    seconds = []
    for step in timed_steps(generation):
        if last.history.num_generated > 1:  # the first one ends the reading of the prompt
            seconds.append(step)
    cache = generation.engine.cache
    filled = 0 if cache is None else cache.num_bytes
    return {"seconds": seconds[1:], "filled_bytes": filled, "peak_bytes": peak() - before}


def fill(cache: Any, config: Any, length: int, batch: int, dtype: torch.dtype) -> None:
    """Put random keys and values of `length` tokens into every layer."""
    width = config.hidden_size // config.num_attention_heads
    new = torch.randn(batch, config.num_key_value_heads, length, width).to(dtype)
    for layer in range(config.num_hidden_layers):
        cache.update(new, new, layer)


def resident() -> int:
    """Bytes of memory that this process holds."""
    return _status("VmRSS")


def peak() -> int:
    """The most that it has held since `reset_peak`."""
    return _status("VmHWM")


def reset_peak() -> Callable[[], None]:
    """What begins the peak anew; raises OSError where the system has no such thing."""
    place = Path("/proc/self/clear_refs")
    if not place.exists():
        raise OSError("peak memory is read from /proc, which this system does not have")
    return lambda: place.write_text("5") and None


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


# All of them


def run(lengths: Sequence[int], at: int, runs: int, settings: Settings) -> list[dict[str, Any]]:
    """A row for each contestant and length: medians over all runs, and every step's time."""
    joined = [c for c in QUANTIZED if not c.needs or _installed(c.needs)]
    for missing in (c for c in QUANTIZED if c not in joined):
        print(f"left out: {missing.name}, as {missing.needs} is not installed", file=sys.stderr)
    pairs = [(c, n) for n in lengths for c in GROWING]
    pairs += [(c, at) for c in (*GROWING, *joined) if (c, at) not in pairs]
    found: dict[tuple[Contestant, int], list[dict[str, Any]]] = {pair: [] for pair in pairs}
    for turn in range(runs):
        for contestant, length in pairs:
            one = _in_own_process(contestant, length, settings)
            found[contestant, length].append(one)
            ms = 1e3 * statistics.median(one["seconds"])
            print(
                f"run {turn + 1}: {length:>7,} tokens  {contestant.name:<30} {ms:8.2f} ms a token "
                f"{one['peak_bytes'] / MIB:8.1f} MiB",
                flush=True,
            )
    return [_row(contestant, length, several) for (contestant, length), several in found.items()]


def _installed(package: str) -> bool:
    return find_spec(package.split(".")[0]) is not None and find_spec(package) is not None


def _in_own_process(contestant: Contestant, length: int, settings: Settings) -> dict[str, Any]:
    job = json.dumps([asdict(contestant), length, asdict(settings)])
    done = subprocess.run(
        [sys.executable, __file__, "--worker", job], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{contestant.name} at {length} tokens failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _row(contestant: Contestant, length: int, runs: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = [s for one in runs for s in one["seconds"]]
    return {
        **asdict(contestant),
        "length": length,
        "median_seconds": statistics.median(seconds),
        "filled_bytes": statistics.median(one["filled_bytes"] for one in runs),
        "peak_bytes": statistics.median(one["peak_bytes"] for one in runs),
        "runs": runs,
    }


# What is written


def save_plot(document: dict[str, Any], path: Path) -> None:
    """Time and memory against length, and all of them side by side at one length."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15.0, 4.8), dpi=150, layout="constrained")
    times, sizes, bars = figure.subplots(1, 3, width_ratios=(3, 3, 4))
    figure.suptitle(document["title"], fontsize=12, fontweight="bold")
    rows, at = document["rows"], document["quantized_at"]
    for contestant in GROWING:
        own = [r for r in rows if r["name"] == contestant.name]
        own = sorted((r for r in own if r["length"] in document["lengths"]), key=_length)
        dashed = "--" if contestant.maker == TRANSFORMERS else "-"
        x = [r["length"] for r in own]
        ms, mib = ([r[k] for r in own] for k in ("median_seconds", "peak_bytes"))
        times.plot(x, [1e3 * t for t in ms], dashed, marker="o", ms=3, label=contestant.name)
        sizes.plot(x, [b / MIB for b in mib], dashed, marker="o", ms=3, label=contestant.name)
    for axes, label in ((times, "ms a token"), (sizes, "peak memory above the model (MiB)")):
        axes.set_xlabel("cached tokens")
        axes.set_ylabel(label)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8)
    beside = sorted((r for r in rows if r["length"] == at), key=lambda r: -r["median_seconds"])
    colors = ["#d1495b" if r["maker"] == TRANSFORMERS else "#0b6e99" for r in beside]
    values = [1e3 * r["median_seconds"] for r in beside]
    drawn = bars.barh([r["name"] for r in beside], values, color=colors)
    bars.bar_label(drawn, fmt="%.1f", padding=3, fontsize=8)
    bars.set_xlabel(f"ms a token at {at:,} cached tokens")
    for axes in (times, sizes, bars):
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(document["footer"], fontsize=8, color="0.4")
    figure.savefig(path, format="png", facecolor="white")


def _length(row: dict[str, Any]) -> int:
    return int(row["length"])


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Markdown."""
    yield "| cached tokens | cache, attention | ms a token | peak memory (MiB) |"
    yield "|---|---|---|---|"
    for row in sorted(rows, key=lambda r: (r["length"], r["median_seconds"])):
        ms, mib = 1e3 * row["median_seconds"], row["peak_bytes"] / MIB
        yield f"| {row['length']:,} | {row['name']} | {ms:.2f} | {mib:,.1f} |"


@contextmanager
def _as_worker(job: str) -> Iterator[tuple[Contestant, int, Settings]]:
    contestant, length, settings = json.loads(job)
    yield Contestant(**contestant), length, Settings(**settings)


def main() -> None:
    """Measure, print the table, write JSON and PNG."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", default="1024,2048,4096,8192,16384")
    parser.add_argument("--quantized-at", type=int, default=8192)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=32, help="timed steps a run")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker is not None:
        with _as_worker(given.worker) as job:
            print(json.dumps(measure(*job)))
        return
    lengths = [int(n) for n in given.lengths.split(",")]
    settings = Settings(given.shape, given.dtype, given.batch, given.steps, given.threads)
    rows = run(lengths, given.quantized_at, given.runs, settings)
    versions = {name: version(name) for name in ("torch", "transformers")}
    machine = describe_machine()
    document = {
        "title": f"Caches in a transformers Llama ({given.shape}, {given.dtype})",
        "footer": f"{machine.cpu}, {given.threads} threads; torch {versions['torch']}, "
        f"transformers {versions['transformers']}, kept {kept.__version__}",
        "kept": kept.__version__,
        **versions,
        "machine": asdict(machine),
        "settings": asdict(settings),
        "model": SHAPES[given.shape],
        "lengths": lengths,
        "quantized_at": given.quantized_at,
        "rows": rows,
    }
    print("\n".join(table(rows)))
    write: dict[Path | None, Callable[[Path], object]] = {
        given.json: lambda path: path.write_text(json.dumps(document, indent=1)),
        given.png: partial(save_plot, document),
    }
    for path, how in write.items():
        if path is not None:
            how(path)


if __name__ == "__main__":
    main()
