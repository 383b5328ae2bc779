"""int4 beside the 4-bit formats it was chosen from, on the bundled model's held-out text.

    python benchmarks/weight_formats.py        # prints the table of docs/decisions/int4.md

Each format is a function that rounds groups of weights (R, group) in fp32. All matrices of the
model go through it, and fp32 arithmetic scores the text. Everything runs in torch.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from functools import partial

os.environ["KEPT_OPS"] = "reference"  # which keeps weights where they can be replaced

import torch
from torch import Tensor

from kept.bench.quality import load_variant, measure_quality
from kept.bench.standard_library import read_held_out
from kept.bench.windows import choose_windows, cut_windows, encode_documents
from kept.models import CausalLM, open_checkpoint
from kept.models.native import matrices
from kept.ops.quantize import INT4_LEVELS, dequantize, quantize
from kept.text import Tokenizer

Round = Callable[[Tensor], Tensor]

EVEN = tuple(range(-8, 8))
# Dettmers et al. 2023 (QLoRA), appendix E, rounded to bf16 below.
NF4 = (-1, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0)
NF4 += (0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1)
# Where Lloyd's iteration on normal groups ends; int4's levels are from earlier on its way.
LATER = (-127, -101, -80, -63, -48, -34, -22, -10, 0, 13, 27, 41, 55, 72, 92, 123)
SHARES = (0.8, 0.9, 1.0)
INT8_TABLE = "embedding and head int8"


def fit(
    groups: Tensor,
    levels: Sequence[float],
    shares: Sequence[float] = SHARES,
    signs: Sequence[int] = (1, -1),
    refinements: int = 2,
) -> tuple[Tensor, Tensor]:
    """The best scales (R, 1), in bf16's numbers, and codes (R, group) among those tried."""
    table = torch.tensor(levels).bfloat16().float()
    edges = (table[1:] + table[:-1]) / 2
    largest = groups.gather(1, groups.abs().argmax(1, keepdim=True))
    scales, codes = torch.zeros_like(largest), torch.zeros_like(groups, dtype=torch.long)
    least = torch.full_like(largest, torch.inf)

    def attempt(tried: Tensor) -> None:
        nonlocal scales, codes, least
        tried = tried.bfloat16().float()
        found = torch.bucketize(groups / torch.where(tried == 0, 1, tried), edges)
        error = (groups - tried * table[found]).square().sum(1, keepdim=True)
        better = error < least
        least = torch.where(better, error, least)
        scales, codes = torch.where(better, tried, scales), torch.where(better, found, codes)

    for share in shares:
        for sign in signs:
            attempt(largest * share * sign / table[0])
    for _ in range(refinements):
        nearest = table[codes]
        squares = nearest.square().sum(1, keepdim=True).clamp_min(1e-30)
        attempt((groups * nearest).sum(1, keepdim=True) / squares)
    return scales, codes


def with_levels(groups: Tensor, levels: Sequence[float], **search: Sequence[float] | int) -> Tensor:
    """One scale a group."""
    scales, codes = fit(groups, levels, **search)  # type: ignore[arg-type]
    return scales * torch.tensor(levels).bfloat16().float()[codes]


def with_minimum(groups: Tensor, shrink: Sequence[float], refinements: int) -> Tensor:
    """A scale and a minimum a group, with 16 even steps."""
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    best, steps = torch.zeros_like(groups), torch.zeros_like(groups)
    least = torch.full_like(low, torch.inf)

    def attempt(scale: Tensor, minimum: Tensor) -> None:
        nonlocal best, steps, least
        scale, minimum = scale.bfloat16().float(), minimum.bfloat16().float()
        found = ((groups - minimum) / torch.where(scale == 0, 1, scale)).round().clamp(0, 15)
        rounded = scale * found + minimum
        error = (groups - rounded).square().sum(1, keepdim=True)
        better = error < least
        least = torch.where(better, error, least)
        best, steps = torch.where(better, rounded, best), torch.where(better, found, steps)

    for a in shrink:
        for b in shrink:
            attempt((high * b - low * a) / 15, low * a)
    for _ in range(refinements):
        centred = steps - steps.mean(1, keepdim=True)
        spread = centred.square().sum(1, keepdim=True).clamp_min(1e-30)
        scale = (centred * groups).sum(1, keepdim=True) / spread
        attempt(scale, groups.mean(1, keepdim=True) - scale * steps.mean(1, keepdim=True))
    return best


def in_groups(round_groups: Round, size: int) -> Round:
    """The same for a matrix (out, in), `in` a multiple of the group's size."""
    return lambda weight: round_groups(weight.reshape(-1, size)).view(weight.shape)


def formats() -> dict[str, tuple[float, Round]]:
    """Bits a weight, and how it is rounded, by name."""
    once = {"shares": (1.0,), "signs": (1,), "refinements": 0}
    kinds: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
        "even levels -7..7, no search": (1, partial(with_levels, levels=range(-7, 8), **once)),
        "even levels -8..7, no search": (1, partial(with_levels, levels=EVEN, **once)),
        "even levels -8..7": (1, partial(with_levels, levels=EVEN)),
        "NF4": (1, partial(with_levels, levels=NF4)),
        "int4's levels, iterated longer": (1, partial(with_levels, levels=LATER)),
        "int4's levels, no search": (1, partial(with_levels, levels=INT4_LEVELS, **once)),
        "int4's levels": (1, partial(with_levels, levels=INT4_LEVELS)),
        "scale and minimum, no search": (2, partial(with_minimum, shrink=(1.0,), refinements=0)),
        "scale and minimum": (
            2,
            partial(with_minimum, shrink=(0.7, 0.82, 0.94, 1.0), refinements=3),
        ),
    }
    found: dict[str, tuple[float, Round]] = {}
    for size in (32, 64):
        for name, (numbers, kind) in kinds.items():
            found[f"{name}, groups of {size}"] = 4 + 16 * numbers / size, in_groups(kind, size)
    return found


def rounded(round_matrix: Round, round_table: Round | None = None) -> CausalLM:
    """The bundled model, its matrices rounded; the tied embedding and head by `round_table`."""
    model = load_variant(None, "fp32")
    for modules in matrices(model):
        weight = modules[0].weight
        is_table = weight is model.head.weight
        chosen = round_table if is_table and round_table is not None else round_matrix
        with torch.no_grad():
            weight.copy_(chosen(weight))
    return model


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=40_000)
    arguments = parser.parse_args()
    tokenizer = Tokenizer.from_folder(open_checkpoint(None).folder)
    documents = encode_documents(tokenizer, [module.text for module in read_held_out()])
    cut = [window for document in documents for window in cut_windows(document, 2048)]
    windows = choose_windows(cut, arguments.tokens)
    int8: Round = lambda weight: dequantize(quantize(weight, "int8"))  # noqa: E731
    chosen = formats()
    for size in (32, 64):
        _, kind = chosen[f"int4's levels, groups of {size}"]
        chosen[f"the same of {size}, {INT8_TABLE}"] = 4 + 16 / size, kind
    models = {"fp32": load_variant(None, "fp32")}
    for name, (_, kind) in chosen.items():
        models[name] = rounded(kind, int8 if INT8_TABLE in name else None)
    scores = measure_quality(models, windows).scores
    print("| format | bits | perplexity (%) | divergence (nats) | same top token (%) |")
    print("|---|---|---|---|---|")
    for name, (bits, _) in chosen.items():
        score = scores[name]
        change = f"{100 * score.change:+.2f} ± {100 * score.change_error:.2f}"
        figures = f"{score.mean_divergence:.4f} | {100 * score.agreement:.1f}"
        print(f"| {name} | {bits:g} | {change} | {figures} |")


if __name__ == "__main__":
    main()
