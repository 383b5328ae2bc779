"""Single native operations over memory that no cache holds: copies of one thing, walked in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from kept.batch import Batch
from kept.bench.work import Work
from kept.machine import MatrixDtype
from kept.ops import (
    LentBuffers,
    Placement,
    Program,
    StepBuffers,
    find_kv_codec,
    one_block_each,
)

# Operations of arithmetic after which a run has walked far enough: milliseconds of any machine.
_ENOUGH = 8e9


@dataclass(frozen=True, slots=True)
class Case:
    """One operation to time.

    name: of the layer, or "decode", "prompt" and "shared" of attention. stored: the format of its
    weights, or the codec of its keys and values. length: tokens attended; None of a linear layer.
    work: what it reads and computes; written results and its input do not count. arithmetic: the
    type whose matrix peak bounds it.
    """

    kind: Literal["linear", "attention"]
    name: str
    stored: str
    rows: int
    length: int | None
    work: Work
    arithmetic: MatrixDtype


def per_run(case: Case, num_copies: int) -> int:
    """How many of the copies one run walks."""
    enough = min(max(round(_ENOUGH / case.work.operations), 1), num_copies)
    return num_copies // (num_copies // enough)


class Walk:
    """Operations of one program that do the same, each over memory of its own.

    per_run: how many one run carries out; the next run goes on behind them, so that the memory an
    operation reads was last used a whole round ago.
    """

    def __init__(self, program: Program, step: Any, first: int, count: int, case: Case) -> None:
        """first, count: which of the program's operations. Runs those before them once."""
        self.case, self.num_copies = case, count
        self.per_run = per_run(case, count)
        self._program, self._step = program, step
        self._first, self._next = first, first
        program.run(step, 0, first)

    def run(self) -> None:
        """Carry out the next `per_run` operations."""
        if self._next + self.per_run > self._first + self.num_copies:
            self._next = self._first
        begin, self._next = self._next, self._next + self.per_run
        self._program.run(self._step, begin, self._next)


class Group(Protocol):
    """Cases that read the same memory.

    each: bytes of one copy of it. beside: bytes needed besides the copies.
    """

    cases: tuple[Case, ...]
    each: int
    beside: int

    def walks(self, num_copies: int) -> Iterator[Walk]:
        """Fill the copies, and yield a walk for each case; one at a time may be used."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Keys and values of several layers, of sequences of one length. parts: of keys and of values,
    each (layers, blocks, G, tokens of a block, width) as `Codec.parts` orders them. table: (B, n)
    the blocks of each sequence."""

    codec: str
    length: int
    keys: Sequence[torch.Tensor]
    values: Sequence[torch.Tensor]
    table: NDArray[np.int32]

    @property
    def block(self) -> int:
        """Tokens of one."""
        return self.keys[0].shape[3]


class BoundStep:
    """A native step over one sequence, or over all of what is stored, and all that must outlive
    it."""

    def __init__(
        self, program: Program, rows: int, num_logits: int, stored: Stored | None = None
    ) -> None:
        """rows: of all sequences together, of each as many. num_logits: rows that the last
        operation may write, if it is to run at all."""
        index = torch.arange(rows, dtype=torch.int64, device="cpu")
        length = rows if stored is None else stored.length
        count = 1 if stored is None else len(stored.table)
        starts = tuple(range(0, rows + 1, rows // count))
        batch = Batch(index % NUM_INPUTS, index, starts, tuple(range(count)), (length,) * count)
        size = num_logits, program.vocab_size
        logits = torch.empty(size, dtype=torch.float32, device="cpu")
        stores = _buffers(stored, length)
        self._alive = batch, logits, stores
        self.native = program.step(batch, stores, None, logits)


NUM_INPUTS = 64  # rows of input that differ


def random_numbers(*size: int) -> torch.Tensor:
    """Of that size, fp32."""
    return torch.randn(size, dtype=torch.float32, device="cpu")


def _buffers(stored: Stored | None, length: int) -> StepBuffers:
    if stored is None:
        lent = LentBuffers(find_kv_codec("float32"), [], [])
        tables, block = one_block_each([0]), length
    else:
        num_layers = len(stored.keys[0])
        layers = [
            ([part[i] for part in stored.keys], [part[i] for part in stored.values])
            for i in range(num_layers)
        ]
        lent = LentBuffers(find_kv_codec(stored.codec), layers, [0] * num_layers)
        tables, block = stored.table, stored.block
    lengths = [length] * len(tables)
    return StepBuffers(lent, [Placement(block)], [tables], [lengths], _no_view)


def _no_view(layer: int) -> NoReturn:
    raise AssertionError("these steps are not recorded")
