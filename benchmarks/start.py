"""How long a model takes from its file to the first token, in fresh processes, in turn.

    python benchmarks/start.py MODEL [--cold] [--llamacpp FOLDER] [--rounds 5]

MODEL: a folder with one file of safetensors, or a GGUF file. Each round reads the file into fresh
memory, on pages of 4 KiB and on huge ones; then kept, and of a GGUF file llama.cpp, whose
environment is FOLDER (benchmarks/peers/install.sh makes it), load it and give the first token of a
prompt of 8. What the import of each takes is not counted. --cold: the system forgets the file
before each.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

PROMPT = list(range(5, 13))
PEERS = Path(__file__).parent / "peers"
THREADS = len(os.sched_getaffinity(0))


def main() -> None:
    """Run what the arguments name; a process that measures is this script with --as."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--llamacpp", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--as", dest="name", choices=sorted(MEASURED), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    file = asked.model if asked.model.is_file() else asked.model / "model.safetensors"
    if asked.name is not None:
        print(json.dumps(MEASURED[asked.name](asked.model, file, asked.cold)))
        return
    names = ["small pages", "huge pages", "kept"]
    if asked.llamacpp is not None and asked.model.is_file():
        names.append("llama.cpp")
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(asked.rounds):
        for name in names:
            found[name].append(_measure(name, asked))
    least = min(found["small pages"])
    for name, times in found.items():
        ratio = median(times) / median(found["small pages"])
        print(f"{name:12} {median(times):6.3f} s ({min(times):.3f})  {ratio:5.2f} times reading")
    print(
        f"{file.stat().st_size / 1e6:,.0f} MB, read at {file.stat().st_size / least / 1e9:.1f} GB/s"
    )


def _measure(name: str, asked: argparse.Namespace) -> float:
    python = str(asked.llamacpp / "bin" / "python") if name == "llama.cpp" else sys.executable
    command = [python, __file__, str(asked.model), "--as", name, *(["--cold"] * asked.cold)]
    threads = {"OMP_NUM_THREADS": str(THREADS), "KEPT_NUM_THREADS": str(THREADS)}
    done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed: {done.stderr[-500:]}")
    seconds: float = json.loads(done.stdout.splitlines()[-1])
    return seconds


def _begin(file: Path, cold: bool) -> float:
    """Have the file in the page cache, or not; returns the time."""
    with file.open("rb", buffering=0) as opened:
        if cold:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        else:
            room = bytearray(1 << 20)
            while opened.readinto(room):
                continue
    return time.perf_counter()


def _read(_: Path, file: Path, cold: bool, huge: bool = False) -> float:
    size = file.stat().st_size
    begin = _begin(file, cold)
    room = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if huge:
        room.madvise(mmap.MADV_HUGEPAGE)
    with file.open("rb", buffering=0) as opened, memoryview(room) as whole:
        count = 0
        while got := opened.readinto(whole[count:]):
            count += got
    return time.perf_counter() - begin


def _read_huge(model: Path, file: Path, cold: bool) -> float:
    return _read(model, file, cold, huge=True)


def _kept(model: Path, file: Path, cold: bool) -> float:
    import torch

    from kept import LLM

    begin = _begin(file, cold)
    logits = LLM(model).model(torch.tensor([PROMPT])).logits
    int(logits[0, -1].argmax())
    return time.perf_counter() - begin


def _llamacpp(model: Path, file: Path, cold: bool) -> float:
    sys.path.insert(0, str(PEERS))
    from peer_llamacpp import LlamaCpp
    from worker import Job

    job = Job("llamacpp", str(model), "", "bf16", 1, len(PROMPT), 1, 1, THREADS, 0)
    begin = _begin(file, cold)
    LlamaCpp(job).generate([PROMPT], 1)
    return time.perf_counter() - begin


MEASURED = {"small pages": _read, "huge pages": _read_huge, "kept": _kept, "llama.cpp": _llamacpp}

if __name__ == "__main__":
    main()
