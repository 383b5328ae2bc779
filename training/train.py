"""Train the bundled model.

    python training/train.py --minutes 110

The run is as long as `--tokens`, or ends at a wall-clock budget with `--minutes`; the learning rate
follows whichever was given. Ctrl-C finishes the step, saves and stops; the same command resumes.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import time
from pathlib import Path

import checkpoint
import torch
from data import PackedRows, load_train_documents
from model import Llama, ModelShape
from optimizer import build_optimizers
from schedule import batch_tokens, learning_rate_factor, row_length
from tokenizer import RUNS
from torch import Tensor
from workers import GradientWorkers, Setup

PIECE_TOKENS = 1024
GROUP_BLOCKS = 32
TRAIN_BYTES_PER_TOKEN = 3.736


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--tokens", type=float, default=14e6, help="token budget (14e6)")
    budget.add_argument("--minutes", type=float, help="training time instead of a token budget")
    parser.add_argument("--run", type=Path, default=RUNS / "main", help="checkpoint folder")
    parser.add_argument("--tokenizer", type=Path, default=RUNS / "tokenizer")
    parser.add_argument("--dtype", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=0.003)
    parser.add_argument("--weight-decay", type=float, default=0.03)
    parser.add_argument("--save-every", type=float, default=180.0, help="seconds")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="CPU processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-compile", action="store_true", help="skip torch.compile")
    return parser.parse_args()


def bf16_is_fast(device: str) -> bool:
    """Whether bf16 matrix products have instructions of their own here."""
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported())
    flags = Path("/proc/cpuinfo")
    text = flags.read_text(encoding="utf-8") if flags.exists() else ""
    return "avx512_bf16" in text or "amx_bf16" in text


def build_setup(arguments: argparse.Namespace, shape: ModelShape) -> Setup:
    """How the command line asks for gradients to be computed."""
    automatic = arguments.dtype == "auto" and bf16_is_fast(arguments.device)
    return Setup(
        shape=shape,
        device=arguments.device,
        bf16=arguments.dtype == "bf16" or automatic,
        compiled=not arguments.no_compile,
    )


class Run:
    """One training run: the model, its optimizers, the data and where it stands."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        torch.manual_seed(arguments.seed)
        self.arguments = arguments
        shape = ModelShape()
        self.model = Llama(shape).to(arguments.device)
        self.optimizers = build_optimizers(
            self.model, arguments.muon_lr, arguments.adam_lr, arguments.weight_decay
        )
        self.peak = [group["lr"] for o in self.optimizers for group in o.param_groups]
        self.progress = checkpoint.Progress()
        checkpoint.recover(arguments.run)
        if arguments.run.exists():
            self.progress = checkpoint.restore(arguments.run, self.model, self.optimizers)
            print(f"resuming at step {self.progress.step:,}", flush=True)
        documents = load_train_documents(arguments.tokenizer)
        self.rows = PackedRows(
            documents, shape.max_position_embeddings, GROUP_BLOCKS, arguments.seed
        )
        self.group: Tensor | None = None
        workers = arguments.workers if arguments.device == "cpu" else 1
        self.workers = GradientWorkers(build_setup(arguments, shape), self.model, workers)

    def share_done(self) -> float:
        """How much of the budget is used, from 0 to 1."""
        if self.arguments.minutes is not None:
            return self.progress.seconds / (float(self.arguments.minutes) * 60)
        return self.progress.tokens / float(self.arguments.tokens)

    def next_batch(self) -> Tensor:
        """The next rows `(rows, length + 1)`; a new group takes the row length of its time."""
        progress = self.progress
        if self.group is not None and progress.row_in_group >= len(self.group):
            progress.group += 1
            progress.row_in_group = progress.length = 0
            self.group = None
        if self.group is None:
            progress.length = progress.length or row_length(self.share_done())
            self.group = self.rows.group(progress.group, progress.length)
        start = progress.row_in_group
        progress.row_in_group += batch_tokens(self.share_done()) // progress.length
        return self.group[start : progress.row_in_group]

    def step(self) -> float:
        """One optimizer step; returns the batch's mean loss in nats per token."""
        factor = learning_rate_factor(self.share_done())
        groups = [group for o in self.optimizers for group in o.param_groups]
        for group, peak in zip(groups, self.peak, strict=True):
            group["lr"] = peak * factor
        batch = self.next_batch()
        pieces = -(-len(batch) * self.progress.length // max(PIECE_TOKENS, self.progress.length))
        total = self.workers.gradient(batch, pieces)
        torch.set_num_threads(self.workers.count)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        torch.set_num_threads(1)
        self.progress.step += 1
        self.progress.tokens += batch[:, 1:].numel()
        if not math.isfinite(total):
            raise FloatingPointError(f"the loss is {total} at step {self.progress.step}")
        return total

    def save(self) -> None:
        """Write the checkpoint."""
        checkpoint.save(self.arguments.run, self.model, self.optimizers, self.progress)


def report(run: Run, rate: float) -> None:
    """One line of progress."""
    progress, done = run.progress, run.share_done()
    left = progress.seconds * (1 - done) / max(done, 1e-9) if done < 1 else 0.0
    bits = progress.smooth_loss / math.log(2) / TRAIN_BYTES_PER_TOKEN
    print(
        f"step {progress.step:6,}  {100 * done:5.1f} %  tokens {progress.tokens:11,}  "
        f"length {progress.length:4}  lr x{learning_rate_factor(done):.3f}  "
        f"loss {progress.smooth_loss:.4f}  ~{bits:.3f} bits/byte  {rate:6,.0f} tok/s  "
        f"{left / 60:5.1f} min left",
        flush=True,
    )


def main() -> None:
    """Train until the budget is used or Ctrl-C."""
    run = Run(parse_arguments())
    stop = False

    def request_stop(*_: object) -> None:
        nonlocal stop
        stop = True

    signal.signal(signal.SIGINT, request_stop)
    signal.signal(signal.SIGTERM, request_stop)
    print(f"{run.model.num_parameters():,} parameters, {run.rows.num_tokens:,} train tokens")
    progress, saved_at = run.progress, time.monotonic()
    reported = (time.monotonic(), progress.tokens)
    while not stop and run.share_done() < 1:
        began = time.monotonic()
        loss = run.step()
        progress.seconds += time.monotonic() - began
        weight = max(0.05, 1 / progress.step)
        progress.smooth_loss += weight * (loss - progress.smooth_loss)
        now = time.monotonic()
        if progress.step <= 10 or progress.step % 20 == 0:
            report(run, (progress.tokens - reported[1]) / (now - reported[0]))
            reported = (now, progress.tokens)
        if now - saved_at > run.arguments.save_every:
            run.save()
            saved_at = now
    run.save()
    print("stopped; the same command resumes" if stop else "done", flush=True)


if __name__ == "__main__":
    main()
