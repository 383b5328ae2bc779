"""How one contestant is measured on one row: a fresh process, and what it printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from figures import kept_rates, kept_share, peer_rates
from instruction_sets import BUILT_FOR, HELD_BY_ENVIRONMENT, held_to
from rows import BLOCKS, ENVIRONMENT_OF, Row
from worker import Job

HERE = Path(__file__).resolve().parent
LINES_KEPT = 6  # of what a failing process said last

Found = dict[str, Any]


class Failed(Exception):
    """A measurement that could not be made; the message says why."""


@dataclass(frozen=True)
class Setting:
    """What is the same for all.

    folder: of the peers. timeout: seconds for one measurement. isa: the instruction set, as kept
    names it, that all are held to; None: each takes the best that this CPU has.
    """

    folder: Path
    runs: int
    threads: int
    seed: int
    timeout: float
    isa: str | None = None


def measure(name: str, row: Row, setting: Setting) -> Found:
    """Rates and raw times of kept or a peer; of one that is missing or fails, the reason."""
    try:
        return _measure_kept(row, setting) if name == "kept" else _measure_peer(name, row, setting)
    except Failed as reason:
        # Where the peers lie is nobody else's business, and the reason goes into documents.
        return {"error": str(reason).replace(str(setting.folder), "FOLDER")}


def _measure_kept(row: Row, setting: Setting) -> Found:
    model = _present(row.file_of("kept", setting.folder))
    command = [sys.executable, "-m", "kept", "bench", "prefill" if row.is_prefill else "decode"]
    options = {
        "model": model,
        "prompt-tokens": row.prompt,
        "batch": row.batch,
        "runs": setting.runs,
        "threads": setting.threads,
        "seed": setting.seed,
    }
    if not row.is_prefill:
        options["new"] = row.new
    if row.weights not in BLOCKS:
        options["dtype"] = "bfloat16"
        if row.weights != "bf16":
            options["quantize"] = row.weights
    if row.cache != "bf16":
        options["kv-dtype"] = row.cache
    for option, value in options.items():
        command += [f"--{option}", str(value)]
    with TemporaryDirectory(prefix="kept-peers-") as folder:
        report = Path(folder) / "report.json"
        run([*command, "--json", str(report)], setting)
        raw = json.loads(report.read_text(encoding="utf-8"))
    formats = {"weights": row.weights, "cache": row.cache, "kernels": raw["model"]["kernels"]}
    return {
        "rates": kept_rates(row, raw),
        "share": kept_share(row, raw),
        "facts": {"versions": raw["versions"], **formats},
        "raw": raw,
    }


def _measure_peer(name: str, row: Row, setting: Setting) -> Found:
    environment = ENVIRONMENT_OF.get(name, name)
    if setting.isa is not None and name in BUILT_FOR:
        environment += f"-{setting.isa}"
    elif setting.isa is not None and name not in HELD_BY_ENVIRONMENT:
        raise Failed(f"nothing holds it to {setting.isa}")
    python = _present(setting.folder / environment / "bin" / "python")
    job = Job(
        peer=name,
        model=str(_present(row.file_of(name, setting.folder))),
        weights=row.weights,
        cache=row.cache,
        batch=row.batch,
        prompt=row.prompt,
        new=row.new,
        runs=setting.runs,
        threads=setting.threads,
        seed=setting.seed,
    )
    output = run([str(python), str(HERE / "worker.py"), json.dumps(asdict(job))], setting)
    lines = [line for line in output.splitlines() if line.startswith('{"facts"')]
    if not lines:
        raise Failed(f"no result among its output: {_tail(output)}")
    raw = json.loads(lines[-1])
    return {"rates": peer_rates(row, raw["runs"]), "facts": raw["facts"], "raw": raw["runs"]}


def _present(path: Path) -> Path:
    if not path.exists():
        raise Failed(f"{path} is not there; benchmarks/README.md says how to make it")
    return path


def run(command: Sequence[str], setting: Setting) -> str:
    """What a process printed. Raises Failed with its last words where it does not end well."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(setting.threads),
        "KEPT_NUM_THREADS": str(setting.threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if setting.isa is not None:
        environment |= {"KEPT_ISA": setting.isa} | held_to(setting.isa)
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=setting.timeout
        )
    except subprocess.TimeoutExpired:
        raise Failed(
            f"not done within {setting.timeout:.0f} s; give it more with --timeout"
        ) from None
    if done.returncode:
        # Negative: a signal. 9 is what the system sends to who takes too much memory.
        code = done.returncode
        how = f"exit code {code}" if code > 0 else f"ended by signal {-code}"
        raise Failed(f"{how}: {_tail(done.stderr or done.stdout)}")
    return done.stdout


def _tail(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-LINES_KEPT:]) or "it said nothing"
