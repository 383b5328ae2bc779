"""Attention of a known shape, as operations to time alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kept.bench.kernel_walk import NUM_INPUTS, BoundStep, Case, Stored, Walk, random_numbers
from kept.bench.shapes import shape_config
from kept.bench.work import Work, num_pairs
from kept.cache import memory
from kept.errors import OptionError
from kept.machine import MatrixDtype
from kept.models import build_model
from kept.ops import AttentionSpec, Codec, HeadSpec, Program, find_kv_codec, lines, pack_matrix
from kept.ops.buffers import Buffer

CODECS = ("float32", "bfloat16", "float16", "int8", "k8v4", "int4")
_FLOAT_CODECS = ("float32", "float16")  # over these the kernels compute in fp32
_BLOCK = 64


def shape_heads(shape: str) -> HeadSpec:
    """How a shape's attention falls into heads. Raises OptionError for no such shape, and for one
    that attends latents."""
    model = build_model(shape_config(shape))
    kv = model.kv_shapes[0]
    if kv.values_in_keys:
        raise OptionError(
            f"the attention of {shape} is not timed alone: its values lie in its keys; time the "
            f"model, as kept bench decode --shape {shape} does"
        )
    return HeadSpec(model.config.num_heads, kv.num_kv_heads, kv.head_dim)


@dataclass(slots=True)
class AttentionGroup:
    """Attention over one length in one codec.

    queries: the last so many rows of one sequence. sharing: or the last row of each of so many,
    which have all blocks but their last in common.
    """

    heads: HeadSpec
    codec: str
    length: int
    queries: Sequence[int] = ()
    sharing: int | None = None
    cases: tuple[Case, ...] = field(init=False)
    each: int = field(init=False)
    beside: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        held, _ = self._blocks()
        # Random numbers to encode, and their codes.
        self.beside = 16 * self.heads.num_kv_heads * held * self._block * self.heads.head_dim
        if self.sharing is not None:
            self.cases = (self._case("shared", 1, self.sharing),)
        else:
            rows = dict.fromkeys(min(count, self.length) for count in self.queries)
            self.cases = tuple(self._case("decode" if n == 1 else "prompt", n, 1) for n in rows)
        self.each = self.cases[0].work.kv_bytes

    @property
    def _block(self) -> int:
        return self.length if self.sharing is None else _BLOCK

    def _blocks(self) -> tuple[int, NDArray[np.int32]]:
        """How many blocks there are, and the table."""
        if self.sharing is None:
            return 1, np.zeros((1, 1), dtype=np.int32)
        common = -(-self.length // _BLOCK) - 1
        table = np.tile(np.arange(common + 1, dtype=np.int32), (self.sharing, 1))
        table[:, common] += np.arange(self.sharing, dtype=np.int32)
        return common + self.sharing, table

    def _case(self, name: str, rows: int, sequences: int) -> Case:
        pairs = num_pairs(self.length, None) - num_pairs(self.length - rows, None)
        operations = 4 * self.heads.num_heads * self.heads.head_dim * pairs * sequences
        arithmetic: MatrixDtype = "fp32" if self.codec in _FLOAT_CODECS else "bf16"
        own = (sequences - 1) * (self.length % self._block or self._block)
        tokens = self.heads.num_kv_heads * (self.length + own)
        num_bytes = tokens * find_kv_codec(self.codec).num_bytes(self.heads.head_dim)
        work = Work(0, num_bytes, operations)
        count = rows * sequences
        return Case("attention", name, self.codec, count, self.length, work, arithmetic)

    def walks(self, num_copies: int) -> Iterator[Walk]:
        """See `Group.walks`. A copy is what one layer stores."""
        heads = self.heads
        codec = find_kv_codec(self.codec)
        held, table = self._blocks()
        keys, values = (self._fill(x, num_copies, held) for x in (codec.keys, codec.values))
        stored = Stored(self.codec, self.length, keys, values, table)
        width = heads.num_heads * heads.head_dim
        fused = width + 2 * heads.num_kv_heads * heads.head_dim
        table_of_inputs = pack_matrix(random_numbers(NUM_INPUTS, fused), "fp32")
        ones = torch.ones(1, width, dtype=torch.float32, device="cpu")
        last = pack_matrix(ones, self.cases[0].arithmetic)
        qkv, out = Buffer(fused), Buffer(width, [last])
        queries = Buffer(heads.num_heads * -(-heads.head_dim // 32) * 32)
        spec = AttentionSpec(heads.head_dim**-0.5)
        written: list[lines.Line] = [
            lines.Embed(table_of_inputs, None, qkv),
            lines.Place(qkv, queries, 0, heads, None, None, 0),
        ]
        before = len(written)
        written += (lines.Attend(queries, layer, heads, spec, out) for layer in range(num_copies))
        written.append(lines.Linear(out, last, Buffer(1), "logits"))
        program = Program(lines.Trace(written))
        for case in self.cases:
            step = BoundStep(program, case.rows, 1, stored)
            yield Walk(program, step.native, before, num_copies, case)

    def _fill(self, codec: Codec, num_copies: int, held: int) -> list[Tensor]:
        heads = self.heads
        numbers = random_numbers(held, heads.num_kv_heads, self._block, heads.head_dim)
        found = []
        for part, one in zip(codec.parts(heads.head_dim), codec.encode(numbers), strict=True):
            # As caches lie: on huge pages, which are read a quarter faster.
            room = memory.zeros((num_copies, *one.shape), part.dtype, torch.device("cpu"))
            found.append(room.copy_(one.expand_as(room)))
        return found
