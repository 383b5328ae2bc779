"""Which inputs an encoder reads side by side."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch

from kept.batch import Batch, Source

ENCODER_ROWS = 2048  # tokens of inputs in one pass, or one input


def passes(source: Source, whole: bool = False) -> Iterator[tuple[int, int, Batch]]:
    """So many inputs at a time as ENCODER_ROWS allows: begin, end, and these as a batch of their
    own, with no logits wanted. whole: all of them in one pass."""
    cuts = [source.num_inputs] if whole else list(_cuts(source.lengths))
    for begin, end in pairwise([0, *cuts]):
        yield begin, end, _part(source, begin, end)


def _cuts(lengths: tuple[int, ...]) -> Iterator[int]:
    """Where the inputs of one pass of the encoder end."""
    rows = 0
    for number, length in enumerate(lengths):
        if rows and rows + length > ENCODER_ROWS:
            yield number
            rows = 0
        rows += length
    yield len(lengths)


def _part(source: Source, begin: int, end: int) -> Batch:
    first, last = source.starts[begin], source.starts[end]
    lengths, device = source.lengths[begin:end], source.tokens.device
    return Batch(
        tokens=source.tokens[first:last],
        positions=torch.cat([torch.arange(n, dtype=torch.int64, device=device) for n in lengths]),
        starts=tuple(start - first for start in source.starts[begin : end + 1]),
        slots=tuple(range(end - begin)),
        totals=lengths,
        wanted=torch.empty(0, dtype=torch.int64, device=device),
    )
