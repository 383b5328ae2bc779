"""Choosing the tokens of a step: all rows in one pass, and row by row, in turn.

    python benchmarks/sampling.py                              # two minutes
    python benchmarks/sampling.py --vocab 50257 --rows 1,8 --clock cpu

Random logits with a few hundred likely tokens in each row, and histories of 3,000 tokens. Row by
row is the reference, every processor over the whole row; both must choose the same tokens. The
`cpu` clock counts the process's own time, for a machine that others use.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from kept.sampling import (
    Key,
    Likeliest,
    SamplingParams,
    TokenHistory,
    draw,
    num_likeliest,
    process_scores,
    sample_rows,
    token_logprobs,
)

OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "greedy, 5 logprobs": {"do_sample": False, "logprobs": 5},
    "greedy, penalty 1.1": {"do_sample": False, "repetition_penalty": 1.1},
    "top_k 50, top_p 0.9": {"top_k": 50, "top_p": 0.9, "temperature": 0.8},
    "top_k 50, top_p 0.9, penalty 1.1": {"top_k": 50, "top_p": 0.9, "repetition_penalty": 1.1},
    "top_p 0.9": {"top_k": 0, "top_p": 0.9},
    "min_p 0.05": {"top_k": 0, "min_p": 0.05},
    "temperature 0.8": {"top_k": 0, "temperature": 0.8},
    "top_k 50, typical_p 0.9": {"top_k": 50, "typical_p": 0.9},
    "top_k 50, eta_cutoff 3e-4": {"top_k": 50, "eta_cutoff": 3e-4},
    "typical_p 0.9": {"top_k": 0, "typical_p": 0.9},
    "eta_cutoff 3e-4": {"top_k": 0, "eta_cutoff": 3e-4},
    "epsilon_cutoff 3e-4": {"top_k": 0, "epsilon_cutoff": 3e-4},
    "top_h 0.4": {"top_k": 0, "top_h": 0.4},
}
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def random_logits(rows: int, vocab: int) -> torch.Tensor:
    """(rows, vocab) fp32: noise, from which 300 tokens of each row rise by 14 down to 2."""
    logits = torch.randn(rows, vocab) * 2.5
    raised = torch.stack([torch.randperm(vocab)[:300] for _ in range(rows)])
    return logits.scatter_add_(1, raised, torch.linspace(14, 2, 300).expand(rows, -1).clone())


def measure(
    rows: int, vocab: int, options: dict[str, Any], turns: int, clock: Callable[[], float]
) -> tuple[float, float]:
    """Median seconds of a step, row by row and in one pass."""
    logits, params = random_logits(rows, vocab), SamplingParams(**options).resolve()
    peaks, first = logits.max(1)
    best = list(zip(peaks.tolist(), first.tolist(), strict=True))
    count = num_likeliest([params], rows, vocab)
    likeliest = Likeliest(*(x.numpy() for x in logits.topk(count))) if count else None
    likely = logits.topk(12).indices
    histories = [TokenHistory(torch.cat([torch.randint(vocab, (2988,)), x])) for x in likely]
    alone, together = [], []
    for turn in range(turns):
        keys = [Key(row, turn) for row in range(rows)]
        start = clock()
        expected, told = [], []
        for row, (history, key) in enumerate(zip(histories, keys, strict=True)):
            scores = process_scores(logits[row], params, history)
            expected.append(draw(scores, key) if params.do_sample else int(scores.argmax()))
            if params.logprobs is not None:
                told.append(token_logprobs(logits[row], expected[-1], params.logprobs))
        alone.append(clock() - start)
        start = clock()
        found = sample_rows(logits, [params] * rows, histories, keys, best, likeliest)
        together.append(clock() - start)
        if list(found.token_ids) != expected or (told and list(found.logprobs) != told):
            raise SystemExit(f"{options}: the two ways differ")
        for history, token in zip(histories, expected, strict=True):
            history.append(token)
    return statistics.median(alone), statistics.median(together)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--rows", default="1,16,64")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    print(f"{arguments.vocab:,} tokens, ms a step ({arguments.clock}): row by row, in one pass")
    for name, options in OPTIONS.items():
        for rows in map(int, arguments.rows.split(",")):
            clock = CLOCKS[arguments.clock]
            found = measure(rows, arguments.vocab, options, arguments.turns, clock)
            alone, together = (seconds * 1e3 for seconds in found)
            print(f"{name:33} {rows:4} rows {alone:9.2f} {together:9.3f}", flush=True)


if __name__ == "__main__":
    main()
