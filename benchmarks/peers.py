"""Times greedy generation from one checkpoint by kept and by transformers, in turn.

    python benchmarks/peers.py FOLDER --peer kept --peer transformers --prompt 128 --new 64

Prints one JSON line for each peer. benchmarks/README.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import torch

Prompts = list[list[int]]
Run = Callable[[int], None]  # generates so many new tokens for each prompt

_WARM_UP_TOKENS = 4
_REPEATS = 2


def kept_peer(folder: Path, prompts: Prompts) -> Run:
    """The folder's model in kept."""
    from kept import LLM

    llm = LLM(folder, max_batch_size=len(prompts))

    def run(new: int) -> None:
        done = llm.generate(prompts, max_new_tokens=new, do_sample=False, ignore_eos=True)
        check("kept", [len(completion.token_ids) for completion in done], new)

    return run


def transformers_peer(folder: Path, prompts: Prompts) -> Run:
    """The folder's model in transformers, in the dtype it is stored in."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    ids = torch.tensor(prompts)

    def run(new: int) -> None:
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=None,
            )
        check("transformers", [len(row) - ids.shape[1] for row in out], new)

    return run


PEERS: dict[str, Callable[[Path, Prompts], Run]] = {
    "kept": kept_peer,
    "transformers": transformers_peer,
}


def check(peer: str, counts: list[int], new: int) -> None:
    """A text that ended early would look fast."""
    if set(counts) != {new}:
        raise SystemExit(f"{peer} drew {counts} tokens where {new} each were asked for")


def make_prompts(folder: Path, length: int, batch: int, seed: int) -> Prompts:
    """Random ids, the same for every peer."""
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    draw = random.Random(seed)
    return [[draw.randrange(1, vocabulary) for _ in range(length)] for _ in range(batch)]


def seconds(run: Run, new: int) -> float:
    """What one generation takes."""
    start = time.perf_counter()
    run(new)
    return time.perf_counter() - start


def measure(runs: dict[str, Run], new: int) -> dict[str, tuple[float, float]]:
    """Seconds to the first token and to the last, the best of each; peers take turns."""
    for run in runs.values():
        run(min(_WARM_UP_TOKENS, new))
    taken: dict[str, tuple[list[float], list[float]]] = {peer: ([], []) for peer in runs}
    for _ in range(_REPEATS):
        for peer, run in runs.items():
            first, whole = taken[peer]
            first.append(seconds(run, 1))
            whole.append(seconds(run, new))
    return {peer: (min(first), min(whole)) for peer, (first, whole) in taken.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="checkpoint folder")
    parser.add_argument("--peer", action="append", choices=sorted(PEERS), help="default: kept")
    parser.add_argument("--prompt", type=int, default=128, help="prompt tokens (%(default)s)")
    parser.add_argument("--new", type=int, default=64, help="new tokens (%(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="prompts at once (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="draws the prompts (%(default)s)")
    parser.add_argument("--threads", type=int, help="torch threads; default: torch's own")
    asked = parser.parse_args()
    if asked.new < 2 or asked.prompt < 1 or asked.batch < 1:
        parser.error("--new must be at least 2, --prompt and --batch at least 1")
    if not (asked.folder / "config.json").is_file():
        parser.error(f"{asked.folder} has no config.json; give a checkpoint folder")
    if asked.threads:
        torch.set_num_threads(asked.threads)
    prompts = make_prompts(asked.folder, asked.prompt, asked.batch, asked.seed)
    runs = {peer: PEERS[peer](asked.folder, prompts) for peer in asked.peer or ["kept"]}
    for peer, (first, whole) in measure(runs, asked.new).items():
        line = {
            "peer": peer,
            "model": asked.folder.resolve().name,
            "prompt": asked.prompt,
            "new": asked.new,
            "batch": asked.batch,
            "first_token_s": round(first, 4),
            "decode_tokens_per_s": round(asked.batch * (asked.new - 1) / (whole - first), 2),
            "prefill_tokens_per_s": round(asked.batch * asked.prompt / first, 1),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
