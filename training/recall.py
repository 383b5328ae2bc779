"""Train the model of recall tasks, which `kept bench quality --evict` measures caches with.

    python training/recall.py            # -> src/kept/bench/recall_model

It learns texts of `kept.bench.recall_tasks` alone: the loss is of the values that questions ask
for. Bodies grow from 8 tokens to 510 as it learns, so that it first finds out how to look
something up and then to do so far back. Ctrl-C stops it, and what it has learned is written.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import torch
from export import model_config, write_json
from model import Llama, ModelShape
from optimizer import build_optimizers
from safetensors.torch import save_file
from torch.nn import functional as F

from kept.bench.recall_tasks import TASKS, VOCABULARY, RecallTask

OUT = Path(__file__).resolve().parents[1] / "src" / "kept" / "bench" / "recall_model"
SHAPE = ModelShape(
    vocab_size=VOCABULARY,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=1024,
)
SHORTEST, LONGEST = 8, 510
BATCH_TOKENS = 4096
LEARNED = 0.3  # nats of an answer, at which bodies grow


def draw_task(longest: int, chance: random.Random) -> RecallTask:
    """A task with a body of at most so many tokens."""
    body = chance.choice((longest, chance.randrange(SHORTEST, longest + 1, 2)))
    pairs = min(64, body // 2)
    num_pairs = chance.choice((4, pairs, chance.randint(1, pairs)))
    return RecallTask("", body, num_pairs, min(num_pairs, 32))


def accuracy(model: Llama, task: RecallTask, count: int = 64) -> float:
    """The share of questions answered right, of texts that training does not draw."""
    texts = task.draw(count, torch.Generator().manual_seed(-1))
    with torch.no_grad():
        found = model(texts[:, :-1]).argmax(-1)
    answers = range(*task.answers.indices(task.length))
    return float((found[:, [i - 1 for i in answers]] == texts[:, task.answers]).float().mean())


def train(steps: int, seed: int) -> Llama:
    """A trained model; the learning rates fall to zero over the last 40 %."""
    torch.manual_seed(seed)
    generator, chance = torch.Generator().manual_seed(seed), random.Random(seed)
    model = Llama(SHAPE)
    optimizers = build_optimizers(model, 0.02, 0.003, 0.0)
    rates = [[group["lr"] for group in o.param_groups] for o in optimizers]
    begun, longest, recent = time.monotonic(), SHORTEST, 4.0
    try:
        for step in range(steps):
            factor = min(1.0, (step + 1) / 100, (steps - step) / (0.4 * steps))
            task = draw_task(longest, chance)
            texts = task.draw(max(1, BATCH_TOKENS // task.length), generator)
            hidden = model.hidden(texts[:, :-1])[:, task.body + 1 :: 2]
            logits = F.linear(hidden, model.model.embed_tokens.weight).flatten(0, 1)
            loss = F.cross_entropy(logits, texts[:, task.answers].flatten())
            loss.backward()
            recent += (loss.item() - recent) / 20
            if recent < LEARNED and longest < LONGEST:
                longest, recent = min(LONGEST, longest * 5 // 4 // 2 * 2 + 2), 2 * LEARNED
            for optimizer, starts in zip(optimizers, rates, strict=True):
                for group, rate in zip(optimizer.param_groups, starts, strict=True):
                    group["lr"] = factor * rate
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            if step % 100 == 99:
                right = ", ".join(f"{task.name} {accuracy(model, task):.3f}" for task in TASKS)
                print(
                    f"{step + 1:5} {time.monotonic() - begun:6.0f} s, "
                    f"{longest} tokens, {recent:.3f} nats: {right}",
                    flush=True,
                )
    except KeyboardInterrupt:
        print("stopped")
    return model


def main() -> None:
    """Train and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    model = train(arguments.steps, arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    weights = {n: p.detach().to(torch.bfloat16).contiguous() for n, p in model.named_parameters()}
    save_file(weights, arguments.out / "model.safetensors", metadata={"format": "pt"})
    write_json(arguments.out / "config.json", model_config(model))
    print(json.dumps({task.name: accuracy(model, task) for task in TASKS}))


if __name__ == "__main__":
    main()
