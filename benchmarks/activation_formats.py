"""What int8 activations cost in perplexity on the kernels, beside bfloat16 ones.

    python benchmarks/activation_formats.py                 # the bundled model
    python benchmarks/activation_formats.py --model FOLDER --text FILE --tokens 20000

The same weights, int8 or int4, score the same windows of a text with activations of both kinds.
Ctrl-C prints what was scored by then.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from kept.batch import Batch
from kept.bench.quality import Score, load_variant, score
from kept.bench.standard_library import read_held_out
from kept.bench.windows import Window, choose_windows, cut_windows, encode_documents
from kept.models import CausalLM, open_checkpoint, read_config
from kept.ops import isa
from kept.ops.quantize import QUANTIZED_FORMATS, QuantizedFormat
from kept.text import find_tokenizer

LONGEST = 512  # tokens of a window: two times as many log-probabilities are held at once


@torch.inference_mode()
def predictions(model: CausalLM, window: Window) -> Tensor:
    """Log-probabilities (R, V) of a window's scored tokens."""
    tokens = torch.tensor(window.tokens[:-1])
    count = len(tokens)
    wanted = torch.arange(count - window.num_scored, count)
    batch = Batch(tokens, torch.arange(count), (0, count), (0,), (count,), wanted)
    return model.run(batch).log_softmax(-1)


def measure(source: str | None, format: QuantizedFormat, windows: list[Window]) -> Score:
    """Of int8 activations, against bfloat16 ones."""
    models = [load_variant(source, format, activations=kind) for kind in ("bfloat16", "int8")]
    total = Score()
    try:
        for index, window in enumerate(windows):
            expected, found = (predictions(model, window) for model in models)
            total += score(found, expected, torch.tensor(window.tokens[-window.num_scored :]))
            print(f"{format}: window {index + 1} of {len(windows)}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", help="a checkpoint's folder; default: the bundled model")
    parser.add_argument("--text", type=Path, help="UTF-8; default: held-out modules of Python's")
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument(
        "--formats", nargs="+", choices=QUANTIZED_FORMATS, default=QUANTIZED_FORMATS
    )
    given = parser.parse_args()
    checkpoint = open_checkpoint(given.model)
    tokenizer = find_tokenizer(checkpoint.folder)
    if tokenizer is None:
        parser.error(f"{checkpoint.folder} has no tokenizer to score a text with")
    texts = [given.text.read_text("utf-8")] if given.text else [x.text for x in read_held_out()]
    context = min(read_config(checkpoint.config).context, LONGEST)
    encoded = encode_documents(tokenizer, texts)
    windows = choose_windows(
        [w for ids in encoded for w in cut_windows(ids, context)], given.tokens
    )
    print(f"| weights ({isa()}) | tokens | perplexity (%) | divergence (nats) |\n|---|---|---|---|")
    for format in given.formats:
        found = measure(given.model, format, windows)
        if found.num_tokens == 0:
            continue
        change = f"{100 * found.change:+.2f} ± {100 * found.change_error:.2f}"
        row = f"| {format} | {found.num_tokens:,} | {change} | {found.mean_divergence:.5f} |"
        print(row, flush=True)


if __name__ == "__main__":
    main()
