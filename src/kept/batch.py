"""A forward pass's input: new tokens of several sequences, laid end to end.

The key to the dimension letters used in shape comments everywhere:

    N  rows: new tokens of all sequences together      G  key/value heads
    B  sequences                                       D  head size
    T  new tokens of one sequence                      E  model width
    S  cached length                                   F  MLP width
    L  layers                                          V  vocabulary
    H  query heads                                     P  blocks of K tokens

Rows are packed, never padded. A prompt chunk, a decode step, four drafts and a beam are all "some
rows of some sequence":

    sequence          0           1     2
    rows         a0 a1 a2 a3  |  b7  |  c2 c3        N = 7, starts = (0, 4, 5, 7)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from kept.errors import OptionError


@dataclass(frozen=True, slots=True)
class Source:
    """What the encoder of an encoder-decoder model reads in one pass: inputs laid end to end.

    tokens: (M,) int64, on the model's device. starts: (I + 1,) where each of I inputs begins; the
    last entry is M. of: (B,) the input that each sequence of the batch attends from now on; None:
    the one that its slot of the cache holds already.
    """

    tokens: Tensor
    starts: tuple[int, ...]
    of: tuple[int | None, ...]

    @property
    def num_inputs(self) -> int:
        """I."""
        return len(self.starts) - 1

    @property
    def lengths(self) -> tuple[int, ...]:
        """(I,) tokens of each input."""
        return tuple(b - a for a, b in pairwise(self.starts))


@dataclass(frozen=True, slots=True)
class Batch:
    """The new tokens of one forward pass.

    tokens: (N,) int64, on the model's device.
    positions: (N,) int64, what rotary and learned position embeddings see. Which keys a token may
        attend follows from its place in the cache instead, so a caller may number positions freely.
    starts: (B + 1,) where each sequence's rows begin; the last entry is N.
    slots: (B,) which slot of the cache each sequence lives in; without a cache, its number.
    totals: (B,) how many positions each sequence spans once all of its known tokens are read.
        Dynamic rotary scaling takes its base from this, so cutting a prompt into chunks cannot
        change it.
    wanted: (M,) int64 rows whose logits are wanted, or None for all of them.
    source: what an encoder has to read before, None: nothing new.
    adapters: (B,) the number of the adapter that each sequence's rows go through, -1: none; or
        empty: none does.
    """

    tokens: Tensor
    positions: Tensor
    starts: tuple[int, ...]
    slots: tuple[int, ...]
    totals: tuple[int, ...]
    wanted: Tensor | None = None
    source: Source | None = None
    adapters: tuple[int, ...] = ()

    @property
    def num_rows(self) -> int:
        """N."""
        return self.starts[-1]

    @property
    def num_sequences(self) -> int:
        """B."""
        return len(self.slots)

    @property
    def counts(self) -> tuple[int, ...]:
        """(B,) T of each sequence."""
        return tuple(b - a for a, b in zip(self.starts, self.starts[1:], strict=False))


def pack(
    tokens: Sequence[Sequence[int]],
    *,
    past: Sequence[int] | None = None,
    slots: Sequence[int] | None = None,
    totals: Sequence[int] | None = None,
    last_of: Sequence[int] | None = None,
    sources: Sequence[Sequence[int] | None] | None = None,
    adapters: Sequence[int] = (),
    device: torch.device | str = "cpu",
) -> Batch:
    """Lay sequences of new tokens end to end.

    tokens: B lists of token ids. past: (B,) tokens each sequence already has (default 0), from
    which positions count on. slots: (B,) default 0, 1, 2, ... totals: (B,) default past + new.
    last_of: (B,) want the logits of so many last rows of each sequence only, at most as many as it
    has: of all sequences that want any the first of these rows, in order, then of those that want
    more the second, and so on. True is one; default all rows.
    sources: (B,) the tokens of the input that an encoder is to read for each sequence, None: none.
    Equal inputs are read once.
    adapters: as of `Batch`.

    Raises OptionError if nothing is given to compute or the lists disagree in length.
    """
    num_sequences = len(tokens)
    before = list(past) if past is not None else [0] * num_sequences
    places = tuple(slots) if slots is not None else tuple(range(num_sequences))
    if len(before) != num_sequences or len(places) != num_sequences:
        raise OptionError(
            f"{num_sequences} token lists came with {len(before)} past lengths and {len(places)} "
            "slots; pass one of each per sequence"
        )
    if any(not row for row in tokens) or not tokens:
        raise OptionError("a batch needs at least one new token per sequence; leave empty ones out")
    starts = (0, *accumulate(len(row) for row in tokens))
    flat = [token for row in tokens for token in row]
    positions = [
        p for start, row in zip(before, tokens, strict=True) for p in range(start, start + len(row))
    ]
    spans = totals or [p + len(row) for p, row in zip(before, tokens, strict=True)]
    wanted = None
    if last_of is not None:
        wanted = [
            end - count + depth
            for depth in range(max(last_of, default=0))
            for end, count in zip(starts[1:], last_of, strict=True)
            if depth < count
        ]
    return Batch(
        tokens=torch.tensor(flat, dtype=torch.int64, device=device),
        positions=torch.tensor(positions, dtype=torch.int64, device=device),
        starts=starts,
        slots=places,
        totals=tuple(spans),
        wanted=None if wanted is None else torch.tensor(wanted, dtype=torch.int64, device=device),
        source=None if sources is None else pack_source(sources, num_sequences, device),
        adapters=tuple(adapters),
    )


def pack_source(
    sources: Sequence[Sequence[int] | None], num_sequences: int, device: torch.device | str = "cpu"
) -> Source | None:
    """Lay the inputs of an encoder end to end, equal ones once; None if there are none.

    sources: (B,) as `pack` takes them. Raises OptionError for an empty input, or not one for each
    of `num_sequences`.
    """
    if len(sources) != num_sequences or any(s is not None and not len(s) for s in sources):
        raise OptionError(
            f"{num_sequences} sequences came with {len(sources)} inputs of "
            f"{[None if s is None else len(s) for s in sources]} tokens; pass one for each "
            "sequence, of at least one token, or None where its slot holds one"
        )
    numbers: dict[tuple[int, ...], int] = {}
    of = tuple(None if s is None else numbers.setdefault(tuple(s), len(numbers)) for s in sources)
    if not numbers:
        return None
    flat = [token for row in numbers for token in row]
    tokens = torch.tensor(flat, dtype=torch.int64, device=device)
    return Source(tokens, (0, *accumulate(len(row) for row in numbers)), of)
