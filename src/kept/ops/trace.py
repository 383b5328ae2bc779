"""Writes a model's operations down instead of carrying them out.

A model's own code runs once over stand-ins for its rows; each operation of `kept.ops` that meets
one adds a line here, and `kept.ops.program` turns the lines into one native call. Where a sum or an
activation follows a matrix product it joins the product's line, since the kernels do both at once:

    x + linear(h, w)       linear ... add to x's rows, in place
    x + rms_norm(h, w)     norm ... add to x's rows, in place
    x + experts(h, ...)    combine ... add to x's rows, in place
    gated(linear(h, w))    linear ... gate
    linear(h, w) * 0.5     linear ... scaled, before any of these
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kept.ops.adapters import Adapters
from kept.ops.bias import Bias
from kept.ops.buffers import Buffer, CodeBuffer, PositionBuffer
from kept.ops.lines import (
    Attend,
    Combine,
    Embed,
    Linear,
    Norm,
    Place,
    PlaceLatent,
    Quantize,
    Round,
    Shrink,
    Trace,
)
from kept.ops.packed import PackedMatrix
from kept.ops.spec import AttentionSpec, HeadSpec
from kept.ops.traced_batch import Ids, TracedBatch, TracedRope
from kept.ops.traced_store import TracedView


@dataclass(eq=False)
class Rows:
    """Stands in for a tensor (N, width). wanted: the rows whose logits are wanted, alone."""

    trace: Trace
    buffer: Buffer
    wanted: bool = False
    made_by: Linear | Combine | None = None  # while that line can still be joined
    norms: tuple[Norm, ...] = ()  # likewise
    spent: bool = False  # a sum has taken their place

    def __add__(self, other: Rows) -> Rows:
        """A residual sum, in the place of the rows on the left."""
        if isinstance(other.buffer, PositionBuffer):
            embed = self.trace.lines[-1]
            assert isinstance(embed, Embed)
            embed.positions = other.buffer.table
            return self
        self.buffer.sums = True
        if other.norms:
            last = self.trace.lines[-len(other.norms) :]
            assert last == list(other.norms), "a norm is joined before anything else"
            for line in other.norms:
                line.out, line.add = self.read(), True
        elif isinstance(other.made_by, Combine):
            assert other.made_by is self.trace.lines[-1], "a sum is joined before anything else"
            other.made_by.out, other.made_by.add = self.read(), True
        else:
            other.joined("add").out = self.read()
        self.spent = True
        return Rows(self.trace, self.buffer, self.wanted)

    def __mul__(self, factor: float) -> Rows:
        """The rows of a norm or of a product, scaled."""
        made_by: Sequence[Norm | Linear] = self.norms
        if isinstance(self.made_by, Linear):
            made_by = [self.made_by]
        assert made_by, "only a norm or a product can be scaled"
        for line in made_by:
            line.scale *= factor
        return self

    def read(self) -> Buffer:
        """The buffer, for a line that reads or adds to it."""
        assert not self.spent, "rows are not used again once something has been added to them"
        return self.buffer

    def joined(self, epilogue: str, activation: str = "none") -> Linear:
        """Give the product these rows come from another ending."""
        line = self.made_by
        assert isinstance(line, Linear), "only a product can be joined"
        assert line is self.trace.lines[-1], "a product is joined before anything else is done"
        line.epilogue, line.activation, self.made_by = epilogue, activation, None
        return line

    def flatten(self, start: int) -> Rows:
        """Rows are flat already."""
        assert start == 1
        return self

    def only_wanted(self) -> Rows:
        """These rows, of which the next line reads the wanted ones."""
        return Rows(self.trace, self.read(), wanted=True)


def is_traced(x: object) -> bool:
    """Whether x stands in for something of a model's run."""
    return isinstance(x, Rows | Heads | Ids | TracedBatch)


@dataclass(frozen=True, eq=False)
class Heads:
    """Stands in for queries, keys or values (N, heads, D)."""

    rows: Rows
    place: Place | PlaceLatent


def embedding(
    ids: Ids, weight: PackedMatrix | Tensor, scale: float, others_first: bool = False
) -> Rows:
    """See `ops.embedding`. A table of positions is a plain tensor."""
    if ids.are_positions:
        assert isinstance(weight, Tensor)
        assert scale == 1, "positions are added as they are"
        table = _widened(weight[ids.ahead :])
        return Rows(ids.trace, PositionBuffer(weight.shape[1], table=table))
    assert isinstance(weight, PackedMatrix)
    out = Rows(ids.trace, Buffer(weight.num_in, sums=True))
    ids.trace.lines.append(Embed(weight, None, out.buffer, scale, others_first))
    return out


def rms_norm(x: Rows, weight: Tensor, eps: float) -> Rows:
    """See `ops.rms_norm`."""
    return _norm(x, weight, None, eps)


def layer_norm(x: Rows, weight: Tensor | None, bias: Tensor | None, eps: float) -> Rows:
    """See `ops.layer_norm`."""
    if weight is None:
        weight = torch.ones(x.buffer.width, dtype=torch.float32, device="cpu")
    return _norm(x, weight, _widened(torch.zeros_like(weight) if bias is None else bias), eps)


def post_norm(x: Rows, weight: Tensor, bias: Tensor | None, eps: float) -> Rows:
    """See `ops.post_norm`; in place."""
    assert x.buffer.sums, "it is for rows that go on being added to"
    bias = _widened(torch.zeros_like(weight) if bias is None else bias)
    buffer = x.read()
    x.trace.lines.append(Norm(buffer, _widened(weight), bias, eps, buffer, x.wanted))
    x.spent = True
    return Rows(x.trace, buffer, x.wanted)


def norm_parts(x: Rows, weights: Sequence[Tensor], eps: float) -> Rows:
    """See `ops.norm_parts`; in place."""
    buffer, begin, made = x.read(), 0, []
    for weight in weights:
        made.append(Norm(buffer, _widened(weight), None, eps, buffer, x.wanted, begin=begin))
        begin += len(weight)
    x.trace.lines.extend(made)
    # A part that stays as it is has no line that a sum could join.
    return Rows(x.trace, buffer, x.wanted, norms=tuple(made) if begin == buffer.width else ())


def _norm(x: Rows, weight: Tensor, bias: Tensor | None, eps: float) -> Rows:
    out = Rows(x.trace, Buffer(x.buffer.width), x.wanted)
    line = Norm(x.read(), _widened(weight), bias, eps, out.buffer, x.wanted)
    out.norms = (line,)
    x.trace.lines.append(line)
    return out


def _widened(x: Tensor) -> Tensor:
    return x.detach().float().contiguous()


def linear(
    x: Rows, weight: PackedMatrix, bias: None = None, adapters: Adapters | None = None
) -> Rows:
    """See `ops.linear`; a bias is packed with the weights."""
    assert bias is None
    source = read = x.read()
    if x.trace.activations == "int8" and weight.code_order is not None:
        codes = CodeBuffer(source.width, format=weight.code_order)
        x.trace.lines.append(Quantize(source, codes, x.wanted))
        source = codes
    elif (source.sums or isinstance(x.made_by, Linear)) and weight.format != "fp32":
        rounded = Buffer(source.width)
        x.trace.lines.append(Round(source, rounded))
        source = rounded
    source.feeds.append(weight)
    if adapters is not None:
        x.trace.lines.append(Shrink(read, weight, adapters))
    out = Rows(x.trace, Buffer(weight.num_out), x.wanted)
    out.made_by = Linear(source, weight, out.buffer, wanted=x.wanted, adapters=adapters)
    x.trace.lines.append(out.made_by)
    return out


def activate(x: Rows, activation: str) -> Rows:
    """See `ops.activate`."""
    x.joined("activate", activation)
    return x


def times(x: Rows, y: Rows, begin: int) -> Rows:
    """See `ops.times`."""
    out = Rows(x.trace, Buffer(x.buffer.width))
    x.trace.lines.append(Round(x.read(), out.buffer, by=y.buffer, begin=begin))
    return out


def scaled(x: Rows, factor: Tensor | float) -> Rows:
    """See `ops.scaled`; in place."""
    number = factor.detach().item() if isinstance(factor, Tensor) else factor
    x.trace.lines.append(Round(x.read(), x.buffer, number))
    return x


def soft_cap(x: Rows, cap: float) -> Rows:
    """See `ops.soft_cap`; of the logits, which the product's line has yet to become."""
    assert isinstance(x.made_by, Linear), "only a product can be capped"
    x.made_by.softcap = cap
    return x


def gated(x: Rows, activation: str) -> Rows:
    """See `ops.gated`."""
    line = x.joined("gate", activation)
    assert line.weight.gated, "gates are packed beside what they gate"
    out = Rows(x.trace, Buffer(line.weight.num_out // 2))
    line.out = out.buffer
    return out


def split_heads(
    qkv: Rows,
    heads: HeadSpec,
    rope: TracedRope | None,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    v_norm: Tensor | None = None,
) -> tuple[Heads, Heads, Heads]:
    """See `ops.split_heads`."""
    found = _place(qkv, heads, rope, q_norm, k_norm, v_norm=v_norm)
    return found, found, found


def split_queries(
    q: Rows, heads: HeadSpec, rope: TracedRope | None, q_norm: Tensor | None
) -> Heads:
    """See `ops.split_queries`."""
    return _place(q, heads, rope, q_norm, None, only="queries")


def split_keys(kv: Rows, heads: HeadSpec) -> tuple[Heads, Heads]:
    """See `ops.split_keys`."""
    found = _place(kv, heads, None, None, None, only="keys")
    return found, found


def _place(
    x: Rows,
    heads: HeadSpec,
    rope: TracedRope | None,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    only: Literal["queries", "keys"] | None = None,
    v_norm: Tensor | None = None,
) -> Heads:
    padded = -(-heads.head_dim // 32) * 32
    queries = x if only == "keys" else Rows(x.trace, Buffer(heads.num_heads * padded))
    q_weight, k_weight, v_weight = (
        None if w is None else _widened(w) for w in (q_norm, k_norm, v_norm)
    )
    tables = TracedRope(0) if rope is None else rope
    place = Place(
        x.read(), queries.buffer, -1, heads, q_weight, k_weight,
        tables.dim, tables.begin, tables.stride, only, v_norm=v_weight,
    )  # fmt: skip
    x.trace.lines.append(place)
    return Heads(queries, place)


def attend(q: Heads, view: TracedView, spec: AttentionSpec, bias: Bias | None = None) -> Rows:
    """See `ops.attend`."""
    heads = q.place.heads
    if q.place.only == "queries":
        q.place.layer, q.place.crossing = view.layer, view.crossing
    out = Rows(q.rows.trace, Buffer(heads.num_heads * heads.value_width))
    q.rows.trace.lines.append(
        Attend(q.rows.buffer, view.layer, heads, spec, out.buffer, bias, view.crossing)
    )
    return out
