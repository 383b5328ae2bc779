"""Attention by its definition, in float64 over what is stored, and how far a kernel may be from it.

With what it takes on by distance, a score errs by d = EPS (sqrt(D) sum|scale q k| + 4 |score|), and
a soft cap adds 4 EPS cap. Of a weight p that makes 2 d, 8 EPS for its exponential and sqrt(S) EPS
for the sums over S tokens, in parts. Where weights are rounded to bfloat16 for the product with
values, 2^-8 comes to that, and as much for their sum. So with r all of these together:

    |out - exact| <= r (sum p|v| + |exact|)

Over keys in codes queries become whole numbers of 16 bits, which moves a score by what it moves the
query. Over values in codes weights do, each by half a step of the largest of its tile: sqrt(64) of
that comes on top, times the largest value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kept.ops import AttentionSpec, HeadSpec, KVDtype, LinearBias, Placement, trace

from .driving import EPS, HALF_STEP, LayerBuffers, Rig
from .stores import are_codes, computes_in_floats, empty, put, stored

MOST_WIDE = 32639  # 127 * 257: two int8, one of which counts 256


@dataclass(frozen=True)
class Case:
    """One attention. Sequences have `lengths` tokens, the last `counts` of them new, and live in
    slots in reverse order. size: of queries and keys, so of scores. slopes: (H,) of a bias by
    distance."""

    heads: HeadSpec
    spec: AttentionSpec
    lengths: tuple[int, ...]
    counts: tuple[int, ...]
    kept: tuple[int, int] | None = None  # window and sinks, by which the layout forgets
    size: float = 1.0
    slopes: tuple[float, ...] = ()

    @property
    def placement(self) -> Placement:
        """Room for every sequence."""
        window, sinks = self.kept or (None, 0)
        return Placement(max(self.lengths) + 3, sinks, window)

    @property
    def slots(self) -> tuple[int, ...]:
        """(B,)"""
        return tuple(reversed(range(len(self.lengths))))


@dataclass
class Held:
    """Random numbers of a case: per sequence all its tokens' queries, keys and values."""

    case: Case
    parts: list[tuple[Tensor, Tensor, Tensor]]  # (T, H, D), (T, G, D), (T, G, D)

    @classmethod
    def random(cls, case: Case) -> Held:
        heads = case.heads
        shapes = (heads.num_heads, case.size), (heads.num_kv_heads, case.size)
        return cls(
            case,
            [
                tuple(
                    scale * torch.randn(length, count, heads.head_dim)
                    for count, scale in (*shapes, (heads.num_kv_heads, 1.0))
                )
                for length in case.lengths
            ],
        )  # fmt: skip

    def layer(self, codec: KVDtype) -> LayerBuffers:
        """What is stored before the step."""
        heads, case = self.case.heads, self.case
        size = len(case.lengths), heads.num_kv_heads, heads.head_dim
        layer = empty(codec, case.placement, *size)
        for slot, length, count, (_, k, v) in zip(
            case.slots, case.lengths, case.counts, self.parts, strict=True
        ):
            before = length - count
            oldest = 0 if case.kept is None else max(0, before - case.kept[0] + 1)
            tokens = torch.arange(oldest, before)
            sinks = torch.arange(min(oldest, case.placement.sinks))
            for some in (sinks, tokens):
                put(layer, slot, some, k[some], v[some])
        return layer

    def attend(
        self,
        codec: KVDtype,
        threads: int = 1,
        layer: LayerBuffers | None = None,
        blocks: NDArray[np.int32] | None = None,
    ) -> tuple[Tensor, Tensor, LayerBuffers]:
        """One step on the kernels: queries and outputs (N, H, D), and the layer after it.

        blocks: (B, n) where the layer keeps each sequence, by default in its slot.
        """
        case, heads = self.case, self.case.heads
        layer = layer or self.layer(codec)
        rows = [
            torch.cat([x[len(x) - count :].flatten(1) for x in part], dim=1)
            for part, count in zip(self.parts, case.counts, strict=True)
        ]
        rig = Rig()
        queries = rig.place(rig.rows(torch.cat(rows)), heads)
        bias = LinearBias(torch.tensor(case.slopes)) if case.slopes else None
        out = rig.attend(queries, heads, case.spec, bias=bias)
        total = sum(case.counts)
        starts = (0, *torch.tensor(case.counts).cumsum(0).tolist())
        program, _ = rig.run(
            total, layers=[layer], starts=starts, slots=case.slots, blocks=blocks,
            lengths=case.lengths, threads=threads,
        )  # fmt: skip
        line = trace.Attend(queries, 0, heads, case.spec, out)
        attended = program.rows(out, total).unflatten(1, (heads.num_heads, heads.head_dim))
        return program.queries(line, total, layer.codec), attended, layer

    def last(self, counts: tuple[int, ...], drop: int = 0) -> Held:
        """The same tokens without the last `drop` of each, of which the last `counts` are new."""
        lengths = tuple(n - drop for n in self.case.lengths)
        kept = [tuple(x[: len(x) - drop] for x in part) for part in self.parts]
        return Held(replace(self.case, lengths=lengths, counts=counts), kept)


def seen(case: Case, queries: Tensor, num_tokens: int) -> Tensor:
    """(T, S) which tokens queries at these places see."""
    token, query = torch.arange(num_tokens), queries[:, None]
    found = torch.ones(len(queries), num_tokens, dtype=torch.bool)
    if not case.spec.causal:
        return found
    found &= token <= query
    limits = [(case.spec.window, case.spec.sinks)]
    if case.kept is not None:
        limits.append(case.kept)
    for window, sinks in limits:
        if window is not None:
            found &= (token > query - window) | (token < sinks)
    return found


def exactly(
    case: Case, sequence: int, queries: Tensor, layer: LayerBuffers
) -> tuple[Tensor, Tensor]:
    """Outputs (T, H, D) of a sequence's new rows, and the bound on their errors."""
    heads, spec, length = case.heads, case.spec, case.lengths[sequence]
    share = heads.num_heads // heads.num_kv_heads
    first = length - case.counts[sequence]
    mask = seen(case, torch.arange(first, length), length)
    needed = mask.any(0).nonzero().flatten()
    k, v = stored(layer, case.slots[sequence], needed, heads.head_dim)
    k, v = (x.repeat_interleave(share, 1) for x in (k, v))  # (S, H, D)
    mask = mask[:, needed][:, None]  # (T, 1, S)
    q = queries.double() * spec.scale
    scores = torch.einsum("thd,shd->ths", q, k)
    sizes = torch.einsum("thd,shd->ths", q.abs(), k.abs())
    if spec.softcap is not None:
        scores = spec.softcap * torch.tanh(scores / spec.softcap)
    if case.slopes:
        apart = needed[None] - torch.arange(first, length)[:, None]  # (T, S)
        scores = scores + torch.tensor(case.slopes).double()[None, :, None] * apart[:, None]
    d = EPS * (math.sqrt(heads.head_dim) * sizes + 4 * scores.abs() + 4 * (spec.softcap or 0.0))
    if are_codes(layer.codec, "keys"):
        moved = (widened(queries.double()) - queries) * spec.scale
        d = d + torch.einsum("thd,shd->ths", moved, k).abs()
    d = d.masked_fill(~mask, 0).amax(-1, keepdim=True)  # (T, H, 1)
    p = scores.masked_fill(~mask, -math.inf).softmax(-1)
    out = torch.einsum("ths,shd->thd", p, v)
    sizes = torch.einsum("ths,shd->thd", p, v.abs())
    parts = 2 * d + EPS * (8 + math.sqrt(len(needed)))
    if not computes_in_floats(layer.codec):
        parts = parts + 2 * HALF_STEP[torch.bfloat16]
    error = parts * (sizes + out.abs())
    if are_codes(layer.codec, "values"):
        weighed = p * v.abs().amax(-1).T  # (T, H, S)
        for tile in (needed // 64).unique():
            largest = weighed[..., needed // 64 == tile].amax(-1, keepdim=True)
            error = error + math.sqrt(64) * largest / (2 * MOST_WIDE)
    return out, error


def widened(queries: Tensor) -> Tensor:
    """Queries (.., D) as multiples of a power of two, of which none is above 32,639."""
    largest = queries.abs().amax(-1, keepdim=True) / MOST_WIDE
    step = torch.exp2(torch.log2(largest.clamp_min(2.0**-126)).ceil())
    return (queries / step).round() * step


def check(held: Held, codec: KVDtype, threads: int = 1) -> Tensor:
    """Hold one step against the definition; returns its outputs."""
    queries, found, layer = held.attend(codec, threads)
    case, first = held.case, 0
    for sequence, count in enumerate(case.counts):
        rows = slice(first, first + count)
        exact, error = exactly(case, sequence, queries[rows], layer)
        worst = ((found[rows].double() - exact).abs() / (error + 1e-36)).max()
        assert worst <= 1, f"{worst} times the bound: {case}, sequence {sequence}"
        first += count
    return found
