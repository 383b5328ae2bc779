"""Small programs made by hand: a few lines of a trace, run on rows of a test's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
import torch
from laws.tiny import FORMATS, pack_as
from numpy.typing import NDArray
from torch import Tensor

from kept.batch import Batch
from kept.ops import (
    AttentionSpec,
    Bias,
    HeadSpec,
    KVCodec,
    LentBuffers,
    PackedMatrix,
    Placement,
    Program,
    RopeTables,
    StepBuffers,
    find_kv_codec,
    one_block_each,
    pack_matrix,
    trace,
    use_threads,
)
from kept.ops.buffers import Buffer, CodeBuffer

__all__ = ["EPS", "FORMATS", "HALF_STEP", "Rig", "pack_as"]

EPS = 2.0**-23  # of fp32, in which every kernel adds up; a rounding errs by half of it
HALF_STEP = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}  # most a rounding errs, in parts


@dataclass
class Rig:
    """Lines in the making. `rows` puts a tensor's rows into a buffer; the other methods add a line
    each and return the buffer that it writes."""

    traced: trace.Trace = field(default_factory=trace.Trace)

    def rows(self, x: Tensor, *, bf16: bool = False) -> Buffer:
        """x: (N, K) fp32, rounded where `bf16`."""
        out = self.embed(pack_matrix(x, "fp32"))
        # A linear layer's input of bf16 is only ever written by an epilogue that rounds.
        return self.linear(out, _one(x.shape[1]), "activate") if bf16 else out

    def embed(
        self, table: PackedMatrix, positions: Tensor | None = None, scale: float = 1.0
    ) -> Buffer:
        out = Buffer(table.num_in)
        self.traced.lines.append(trace.Embed(table, positions, out, scale))
        return out

    def norm(
        self,
        x: Buffer,
        weight: Tensor,
        bias: Tensor | None,
        eps: float,
        wanted: bool = False,
        add_to: Buffer | None = None,
    ) -> Buffer:
        out = add_to or Buffer(x.width)
        add = add_to is not None
        self.traced.lines.append(trace.Norm(x, weight, bias, eps, out, wanted, add))
        return out

    def norm_parts(self, x: Buffer, weights: Sequence[Tensor], eps: float) -> Buffer:
        """In place."""
        return trace.norm_parts(trace.Rows(self.traced, x), weights, eps).buffer

    def round(
        self,
        x: Buffer,
        factor: float = 1.0,
        by: Buffer | None = None,
        begin: int = 0,
        out: Buffer | None = None,
    ) -> Buffer:
        out = out or Buffer(x.width)
        self.traced.lines.append(trace.Round(x, out, factor, by, begin))
        return out

    def quantize(self, x: Buffer, format: str, *, wanted: bool = False) -> CodeBuffer:
        """x as int8 codes for weights of a format."""
        order = "int4" if format in ("int4", "q4_0") else "int8"
        out = CodeBuffer(x.width, format=order)
        self.traced.lines.append(trace.Quantize(x, out, wanted))
        return out

    def linear(
        self,
        x: Buffer,
        weight: PackedMatrix,
        epilogue: str = "store",
        activation: str = "none",
        out: Buffer | None = None,
        wanted: bool = False,
        softcap: float = 0.0,
        scale: float = 1.0,
    ) -> Buffer:
        x.feeds.append(weight)
        width = weight.num_out // 2 if epilogue == "gate" else weight.num_out
        out = out or Buffer(width)
        line = trace.Linear(x, weight, out, epilogue, activation, wanted, softcap, scale)
        self.traced.lines.append(line)
        return out

    def place(
        self,
        qkv: Buffer,
        heads: HeadSpec,
        norms: tuple[Tensor, Tensor] | None = None,
        rope_dim: int = 0,
        layer: int = 0,
        rope_begin: int = 0,
        rope_stride: int | None = None,
        v_norm: Tensor | None = None,
    ) -> Buffer:
        queries = Buffer(heads.num_heads * -(-heads.head_dim // 32) * 32)
        line = trace.Place(
            qkv,
            queries,
            layer,
            heads,
            *(norms or (None, None)),
            rope_dim,
            rope_begin,
            rope_stride,
            v_norm=v_norm,
        )
        self.traced.lines.append(line)
        return queries

    def attend(
        self,
        queries: Buffer,
        heads: HeadSpec,
        spec: AttentionSpec,
        layer: int = 0,
        bias: Bias | None = None,
    ) -> Buffer:
        out = Buffer(heads.num_heads * heads.head_dim)
        self.traced.lines.append(trace.Attend(queries, layer, heads, spec, out, bias))
        return out

    def run(
        self,
        num_rows: int,
        *,
        layers: Sequence[LayerBuffers] = (),
        starts: tuple[int, ...] | None = None,
        slots: tuple[int, ...] = (0,),
        blocks: NDArray[np.int32] | None = None,
        lengths: Sequence[int] | None = None,
        rope: RopeTables | None = None,
        wanted: Tensor | None = None,
        tokens: Tensor | None = None,
        positions: Tensor | None = None,
        threads: int | None = None,
        top_k: int = 0,
        adapters: tuple[int, ...] = (),
    ) -> tuple[Program, Tensor]:
        """The program after one step over these rows, and its logits, if its last line makes them.

        Row i has token i unless told otherwise. blocks: (B, n) of each sequence, by default its
        slot. adapters: (B,) as of a batch.
        """
        if not isinstance(self.traced.lines[-1], trace.Linear):
            # A program ends in a head; this one reads nothing that matters.
            one = pack_matrix(torch.ones(1, 1), "fp32")
            self.linear(Buffer(1), one, "logits", wanted=True)
        program = Program(self.traced)
        use_threads(threads)  # a new program has set them to the default
        rows = torch.arange(num_rows)
        batch = Batch(
            rows if tokens is None else tokens,
            rows if positions is None else positions,
            starts or (0, num_rows),
            slots,
            (num_rows,) * len(slots),
            wanted,
            adapters=adapters,
        )
        count = num_rows if wanted is None else len(wanted)
        logits = torch.full((count, program.vocab_size), torch.nan)
        tables = one_block_each(slots) if blocks is None else blocks
        stores = as_step(layers or [NOWHERE], tables, lengths or [num_rows])
        step = program.step(batch, stores, rope, logits, top_k)
        program.run(step)
        return program, logits


@dataclass(frozen=True)
class LayerBuffers:
    """What one layer stores, and how its tokens lie."""

    codec: KVCodec
    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    placement: Placement


def as_step(
    layers: Sequence[LayerBuffers], table: NDArray[np.int32], lengths: Sequence[int]
) -> StepBuffers:
    """The layers as a step takes them, each with a layout of its own."""
    buffers = [(layer.keys, layer.values) for layer in layers]
    lent = LentBuffers(layers[0].codec, buffers, range(len(layers)))
    placements = [layer.placement for layer in layers]
    count = len(placements)
    return StepBuffers(lent, placements, [table] * count, [lengths] * count, _no_view)


def _no_view(layer: int) -> NoReturn:
    raise AssertionError("these steps are not recorded")


# Of programs that store no keys: room for any number of rows, none of it ever touched.
NOWHERE = LayerBuffers(
    find_kv_codec("float32"),
    (torch.zeros(1, 1, 1, 1),),
    (torch.zeros(1, 1, 1, 1),),
    Placement(1 << 40),
)


def _one(width: int) -> PackedMatrix:
    return pack_matrix(torch.eye(width), "fp32")
