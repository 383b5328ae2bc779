"""What activations of int8 cost in perplexity, by how many inputs share a scale.

    python benchmarks/activation_groups.py                  # docs/decisions/integer-products.md
    python benchmarks/activation_groups.py --model FOLDER --text FILE --tokens 1500

Weights are int8 or int4 throughout; what changes is how a row is rounded before it meets them: to
bfloat16, which the others are compared with, or to int8 in groups. Everything runs in torch.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ["KEPT_OPS"] = "reference"  # which keeps weights where torch multiplies them

import torch
from torch import Tensor

from kept.batch import Batch
from kept.bench.quality import Score, load_variant, score
from kept.bench.standard_library import read_held_out
from kept.bench.windows import Window, choose_windows, cut_windows, encode_documents
from kept.models import CausalLM, open_checkpoint, read_config
from kept.ops import reference
from kept.ops.quantize import QUANTIZED_FORMATS
from kept.text import find_tokenizer

GROUPS = (32, 64, 128, 256, None)  # None: the whole row
LONGEST = 1024  # tokens of a window


def rounded(x: Tensor, group: int | None) -> Tensor:
    """Rows x (N, K) through int8 codes with a scale for each group."""
    size = x.shape[1] if group is None else group
    padded = torch.nn.functional.pad(x, (0, -x.shape[1] % size)).unflatten(1, (-1, size))
    scales = padded.abs().amax(-1, keepdim=True) / 127
    codes = (padded / torch.where(scales == 0, 1, scales)).round()
    return (codes * scales).flatten(1)[:, : x.shape[1]]


class Rounding:
    """The reference's linear layer over activations that are rounded first."""

    def __init__(self) -> None:
        self.plain, self.group, self.is_bf16 = reference.linear, GROUPS[0], True

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        x = x.bfloat16().float() if self.is_bf16 else rounded(x, self.group)
        return self.plain(x, weight, bias)


@torch.inference_mode()
def predictions(model: CausalLM, window: Window) -> Tensor:
    """Log-probabilities (R, V) of a window's scored tokens."""
    tokens = torch.tensor(window.tokens[:-1])
    count = len(tokens)
    wanted = torch.arange(count - window.num_scored, count)
    batch = Batch(tokens, torch.arange(count), (0, count), (0,), (count,), wanted)
    return model.run(batch).log_softmax(-1)


def measure(model: CausalLM, windows: list[Window], linear: Rounding) -> list[Score]:
    """Scores of every group against bfloat16."""
    scores = [Score()] * len(GROUPS)
    for window in windows:
        targets = torch.tensor(window.tokens[-window.num_scored :])
        linear.is_bf16 = True
        expected = predictions(model, window)
        linear.is_bf16 = False
        for index, group in enumerate(GROUPS):
            linear.group = group
            scores[index] += score(predictions(model, window), expected, targets)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--tokens", type=int, default=4000)
    given = parser.parse_args()
    checkpoint = open_checkpoint(given.model)
    tokenizer = find_tokenizer(checkpoint.folder)
    assert tokenizer is not None, "scoring a text needs a tokenizer"
    texts = [given.text.read_text()] if given.text else [x.text for x in read_held_out()]
    context = min(read_config(checkpoint.config).context, LONGEST)
    encoded = encode_documents(tokenizer, texts)
    windows = choose_windows(
        [w for ids in encoded for w in cut_windows(ids, context)], given.tokens
    )
    linear = Rounding()
    reference.linear = linear  # type: ignore[assignment]
    print("| weights | inputs a scale | perplexity (%) | divergence (nats) |\n|---|---|---|---|")
    for format in QUANTIZED_FORMATS:
        model = load_variant(given.model, format)
        for group, found in zip(GROUPS, measure(model, windows, linear), strict=True):
            change = f"{100 * found.change:+.2f} ± {100 * found.change_error:.2f}"
            print(f"| {format} | {group or 'all'} | {change} | {found.mean_divergence:.5f} |")


if __name__ == "__main__":
    main()
