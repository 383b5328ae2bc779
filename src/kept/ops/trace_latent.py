"""Latent attention in a trace: products of heads, and placing what they attend.

round          rows of queries, where matrices read bfloat16
head_products  each head's matrix
place_latent   the queries, and the key that all of them attend
attend
head_products
"""

from __future__ import annotations

from torch import Tensor

from kept.ops.buffers import Buffer
from kept.ops.latent import HeadMatrices, LatentSpec
from kept.ops.lines import HeadProducts, PlaceLatent, Round
from kept.ops.trace import Heads, Rows
from kept.ops.traced_batch import TracedRope


def head_products(x: Rows, matrices: HeadMatrices, stride: int) -> Rows:
    """See `ops.head_products`."""
    trace, source, first = x.trace, x.read(), matrices.packed[0]
    # What attention leaves is as it is read; what a product does is read as floats, too.
    if first.format != "fp32" and x.made_by is not None:
        rounded = Buffer(source.width)
        trace.lines.append(Round(source, rounded))
        source = rounded
    source.feeds.append(first)
    out = Buffer(len(matrices.packed) * first.num_out)
    trace.lines.append(HeadProducts(source, matrices.packed, stride, out))
    return Rows(trace, out)


def split_latent(
    absorbed: Rows,
    q: Rows,
    compressed: Rows,
    norm: Tensor,
    spec: LatentSpec,
    rope: TracedRope,
) -> tuple[Heads, Heads, Heads]:
    """See `ops.split_latent`."""
    heads = spec.heads
    padded = -(-heads.head_dim // 32) * 32
    queries = Rows(absorbed.trace, Buffer(heads.num_heads * padded))
    weight = norm.detach().float().contiguous()
    place = PlaceLatent(
        absorbed.read(), q.read(), compressed.read(), queries.buffer, -1, spec, weight, rope.begin,
        rope.dim // 2 if rope.stride is None else rope.stride,
    )  # fmt: skip
    absorbed.trace.lines.append(place)
    found = Heads(queries, place)
    return found, found, found
