"""Serves the same requests with kept and with peers, in turn, in one sitting.

    python benchmarks/peers/serve.py --peers FOLDER --scenario mixed --json serve.json

Scenarios are those of `kept bench serve` whose prompts do not go on from answers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from contestants import Failed, Setting, run
from worker import IDS_BELOW

from kept.bench.serve_scenarios import SCENARIOS, find_scenario
from kept.bench.serve_work import Text, Texts
from kept.machine import num_cores

MODELS = {"kept": "qwen05", "vllm": "qwen05", "openvino": "ov-qwen05"}
CONTEXT = 32_768  # of that shape
Requests = list[dict[str, Any]]  # of each when it was sent, and when its tokens came


def requests_of(scenario: str, seed: int) -> Requests:
    """What the peers are sent, in their own words."""
    plan = find_scenario(scenario).plan(seed, CONTEXT, None)
    if any(not isinstance(part, Text) for arrival in plan for part in arrival.prompt):
        raise SystemExit(f"{scenario} goes on from answers, which peers draw differently")
    texts = Texts(plan, IDS_BELOW, seed)
    return [{"at": of.at, "prompt": texts.prompt(of, {}), "new": of.new_tokens} for of in plan]


def serve_kept(asked: argparse.Namespace, setting: Setting, folder: Path) -> Requests:
    """What kept does with them."""
    report = folder / "kept.json"
    command = [sys.executable, "-m", "kept", "bench", "serve", "--scenario", asked.scenario]
    options = {
        "model": asked.peers / "models" / MODELS["kept"],
        "max-batch-size": asked.max_batch,
        "kv-memory": f"{asked.cache}GiB",
        "threads": asked.threads,
        "seed": asked.seed,
        "json": report,
    }
    run([*command, *(f"--{name}={value}" for name, value in options.items())], setting)
    raw = json.loads(report.read_text(encoding="utf-8"))
    return [{"sent": r["due"], "stamps": r["token_times"]} for r in raw["requests"]]


def serve_peer(
    name: str, requests: Requests, asked: argparse.Namespace, setting: Setting, folder: Path
) -> Requests:
    """What a peer does with them."""
    work = {
        "peer": name,
        "model": str(asked.peers / "models" / MODELS[name]),
        "weights": "bf16",
        "threads": asked.threads,
        "max_batch": asked.max_batch,
        "cache_gib": asked.cache,
        "share": True,
        "requests": requests,
    }
    file = folder / "work.json"
    file.write_text(json.dumps(work), encoding="utf-8")
    python = asked.peers / name / "bin" / "python"
    here = Path(__file__).resolve().parent
    output = run([str(python), str(here / "serving.py"), str(file)], setting)
    [line] = [line for line in output.splitlines() if line.startswith('{"facts"')]
    found: Requests = json.loads(line)["requests"]
    return found


def figures(found: Requests) -> dict[str, float]:
    """Output tokens a second of the whole job, and medians over requests and gaps."""
    last = max(stamps[-1] for r in found if (stamps := r["stamps"]))
    first = [r["stamps"][0] - r["sent"] for r in found]
    gaps = [b - a for r in found for a, b in zip(r["stamps"], r["stamps"][1:], strict=False)]
    cut = statistics.quantiles(gaps, n=100)
    return {
        "tokens_per_second": sum(len(r["stamps"]) for r in found) / last,
        "seconds": last,
        "ttft_first": first[0],
        "ttft_median": statistics.median(first),
        "gap_median": statistics.median(gaps),
        "gap_p99": cut[98],
    }


def main() -> None:
    """Measure, print and write."""
    asked = _arguments()
    setting = Setting(asked.peers, 1, asked.threads, asked.seed, asked.timeout)
    requests = requests_of(asked.scenario, asked.seed)
    results: dict[str, list[dict[str, Any]]] = {}
    for _ in range(asked.rounds):
        for name in asked.peer or list(MODELS):
            with TemporaryDirectory(prefix="kept-peers-") as folder:
                try:
                    if name == "kept":
                        found = serve_kept(asked, setting, Path(folder))
                    else:
                        found = serve_peer(name, requests, asked, setting, Path(folder))
                except (Failed, subprocess.SubprocessError) as error:
                    print(f"{name:9} failed: {error}", file=sys.stderr, flush=True)
                    continue
            of_run = figures(found)
            results.setdefault(name, []).append({"figures": of_run, "requests": found})
            shown = "  ".join(f"{key} {value:.3f}" for key, value in of_run.items())
            print(f"{name:9} {shown}", flush=True)
            if asked.json is not None:
                asked.json.write_text(json.dumps(results), encoding="utf-8")


def _arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", type=Path, required=True, help="folder of the peers")
    parser.add_argument("--scenario", choices=sorted(SCENARIOS), default="mixed")
    parser.add_argument("--peer", action="append", choices=sorted(MODELS), help="only this one")
    parser.add_argument("--rounds", type=int, default=1, help="turns of each (%(default)s)")
    parser.add_argument("--max-batch", type=int, default=64, help="sequences side by side")
    parser.add_argument("--cache", type=int, default=4, help="GiB of keys and values")
    parser.add_argument("--threads", type=int, default=num_cores(), help="of everybody")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for one process")
    parser.add_argument("--json", type=Path, help="every raw time goes here")
    return parser.parse_args(given)


if __name__ == "__main__":
    main()
