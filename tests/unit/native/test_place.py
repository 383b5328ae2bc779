"""Queries, keys and values on their way into a cache: norms and rotations against float64, and
every codec's bytes against the reference's.

A rotated pair errs by what its numbers erred, turned, and EPS (|a cos| + |b sin|); a head's norm by
EPS (sqrt(D) + 4) in parts.
"""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from thinning import in_part
from torch import Tensor

from kept.ops import AttentionSpec, HeadSpec, KVDtype, Placement, RopeTables, trace

from .conftest import NAMES
from .driving import EPS, LayerBuffers, Rig
from .stores import CODECS, computes_in_floats, empty, put, same_bits

codecs = pytest.mark.parametrize("codec", CODECS)
PLACES = (Placement(40), Placement(37, sinks=2, window=9), Placement(30))
# Three sequences: where their rows begin, the slots they live in, their lengths after the step.
STARTS, SLOTS, LENGTHS = (0, 5, 6, 18), (2, 0, 3), (30, 1, 18)
ROWS = STARTS[-1]
# Query heads, key heads, head size, elements that are rotated.
HEADS = (
    (1, 1, 1, 0), (3, 1, 3, 2), (4, 2, 5, 4), (2, 2, 16, 6), (8, 1, 31, 30), (2, 1, 32, 32),
    (6, 3, 33, 20), (2, 2, 40, 40), (4, 1, 64, 34), (1, 1, 97, 64), (2, 1, 256, 256),
    (1, 1, 512, 8),
)  # fmt: skip


@dataclass
class Placed:
    """What a step left: queries (N, H, D), and what the layer stores."""

    queries: Tensor
    layer: LayerBuffers


def place(
    qkv: Tensor,
    heads: HeadSpec,
    codec: KVDtype,
    placement: Placement,
    norms: tuple[Tensor, Tensor] | None = None,
    rope: RopeTables | None = None,
    threads: int | None = None,
) -> Placed:
    rig = Rig()
    rope_dim = 0 if rope is None else 2 * rope.cos.shape[1]
    queries = rig.place(rig.rows(qkv), heads, norms, rope_dim)
    layer = empty(codec, placement, 4, heads.num_kv_heads, heads.head_dim)
    program, _ = rig.run(
        ROWS, layers=[layer], starts=STARTS, slots=SLOTS, lengths=LENGTHS, rope=rope,
        threads=threads,
    )  # fmt: skip
    line = trace.Attend(queries, 0, heads, AttentionSpec(1.0), queries)
    return Placed(program.queries(line, ROWS, layer.codec), layer)


def expected_store(
    k: Tensor, v: Tensor, codec: KVDtype, placement: Placement, heads: HeadSpec
) -> LayerBuffers:
    """Buffers that hold keys and values (N, G, D) of the three sequences where they belong."""
    layer = empty(codec, placement, 4, heads.num_kv_heads, heads.head_dim)
    for sequence, slot in enumerate(SLOTS):
        a, b = STARTS[sequence], STARTS[sequence + 1]
        tokens = LENGTHS[sequence] - b + torch.arange(a, b)
        put(layer, slot, tokens, k[a:b], v[a:b])
    return layer


def parts(qkv: Tensor, heads: HeadSpec) -> tuple[Tensor, Tensor, Tensor]:
    h, g = heads.num_heads, heads.num_kv_heads
    q, k, v = qkv.unflatten(1, (h + 2 * g, heads.head_dim)).split((h, g, g), dim=1)
    return q, k, v


def strange(width: int) -> Tensor:
    """Rows that a codec has to think about."""
    x = torch.randn(ROWS, width)
    x[1] *= 1e-42  # subnormal, with scales that underflow
    x[2] = torch.randn(width) * 2.0**-133
    x[3] = 0
    x[4] = -0.0
    x[5, width // 2] = torch.inf
    x[6, 0] = -torch.inf
    x[7, width - 1] = torch.nan
    x[8] *= 1e38
    x[9] = torch.finfo(torch.float32).max
    x[10] = 65519.996  # the last number that is finite in float16
    x[11] = -65520.0
    x[12] = torch.randint(-3, 4, (width,)) * 2.0**-25  # half a step of float16's subnormals
    x[13] = torch.randint(-254, 255, (width,)) / 2
    x[14] = torch.randint(-14, 15, (width,)) / 2  # ties of int4
    x[15] = 1 + torch.randint(0, 9, (width,)) * 2.0**-9  # ties of bfloat16
    x[16] = 1 + torch.randint(0, 9, (width,)) * 2.0**-12  # ties of float16
    return x


@codecs
def test_stored_bytes_are_those_of_the_reference(isa: str, codec: KVDtype) -> None:
    for index, (h, g, dim, _) in enumerate(HEADS):
        heads, placement = HeadSpec(h, g, dim), PLACES[index % len(PLACES)]
        qkv = strange((h + 2 * g) * dim)
        _, k, v = parts(qkv, heads)
        found = place(qkv, heads, codec, placement, threads=1 + index % 3).layer
        expected = expected_store(k, v, codec, placement, heads)
        assert same_bits(found.keys, expected.keys)
        assert same_bits(found.values, expected.values)


def turned(x: Tensor, error: Tensor, rope: RopeTables) -> tuple[Tensor, Tensor]:
    """x (N, heads, D) rotated, and its error."""
    half = rope.cos.shape[1]
    cos, sin = (t.double()[rope.rows][:, None] for t in (rope.cos, rope.sin))

    def rotate(low: Tensor, high: Tensor, c: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        return low * c - high * s, high * c + low * s

    low, high, rest = x.split((half, half, x.shape[2] - 2 * half), dim=2)
    sizes = torch.cat((low.abs(), high.abs(), 0 * rest), dim=2)
    errors = error + EPS * sizes
    e_low, e_high, _ = errors.split((half, half, x.shape[2] - 2 * half), dim=2)
    above = e_low * cos.abs() + e_high * sin.abs(), e_high * cos.abs() + e_low * sin.abs()
    return torch.cat((*rotate(low, high, cos, sin), rest), 2), torch.cat(
        (*above, error[..., 2 * half :]), 2
    )


def exactly(
    x: Tensor, norm: Tensor | None, heads: HeadSpec, rope: RopeTables | None
) -> tuple[Tensor, Tensor]:
    """x (N, heads, D) normed and rotated in float64, and how far a kernel may be from it."""
    x = x.double()
    error = torch.zeros_like(x)
    if norm is not None:
        x, error = normed_heads(x, norm.double(), heads)
    if rope is None:
        return x, error
    if not heads.neighbours:
        return turned(x, error, rope)
    # Neighbours turn as halves do, once they lie as halves.
    half, width = rope.cos.shape[1], x.shape[-1]
    order = [*range(0, 2 * half, 2), *range(1, 2 * half, 2), *range(2 * half, width)]
    back = torch.tensor(order).argsort()
    x, error = turned(x[..., order], error[..., order], rope)
    return x[..., back], error[..., back]


def normed_heads(x: Tensor, norm: Tensor, heads: HeadSpec) -> tuple[Tensor, Tensor]:
    """A mean errs by EPS sqrt(D) mean|x|, which the spread divides, too."""
    width, moved = x.shape[-1], torch.zeros_like(x)
    if heads.centred:
        moved = EPS * (math.sqrt(width) * x.abs().mean(-1, keepdim=True) + x.abs())
        x = x - x.mean(-1, keepdim=True)
    spread = (x.pow(2).mean(-1, keepdim=True) + heads.norm_eps).sqrt()
    x, moved = x / spread, moved / spread
    parts_off = EPS * (math.sqrt(width) + 4) + moved.amax(-1, keepdim=True)
    return x * norm, (parts_off * x.abs() + moved) * norm.abs()


def tables(dim: int) -> RopeTables:
    angles = torch.randn(50, dim // 2, dtype=torch.float64) * 10
    return RopeTables(angles.cos().float(), angles.sin().float(), torch.randint(0, 50, (ROWS,)))


@pytest.mark.parametrize("normed", ["", "norms", "own norms"])
@pytest.mark.parametrize("neighbours", [False, True], ids=["halves", "neighbours"])
def test_norms_and_rotations(isa: str, normed: str, neighbours: bool) -> None:
    for index, (h, g, dim, rotated) in enumerate(HEADS):
        own = normed == "own norms"
        heads = HeadSpec(h, g, dim, 1e-6, centred=own, neighbours=neighbours)
        placement = PLACES[index % len(PLACES)]
        sizes = ((h, dim), (g, dim)) if own else ((dim,), (dim,))
        norms = (torch.randn(sizes[0]), torch.randn(sizes[1])) if normed else None
        rope = tables(rotated) if rotated else None
        qkv = torch.randn(ROWS, (h + 2 * g) * dim)
        q, k, v = parts(qkv, heads)
        placed = place(qkv, heads, "float32", placement, norms, rope)
        q_norm, k_norm = norms or (None, None)
        for found, x, norm in ((placed.queries, q, q_norm), (keys_of(placed.layer), k, k_norm)):
            exact, error = exactly(x, norm, heads, rope)
            worst = ((found.double() - exact).abs() / (error + 1e-37)).max()
            assert worst <= 1, f"{worst} times the bound at head size {dim}"
        assert same_bits(
            placed.layer.values, expected_store(k, v, "float32", placement, heads).values
        )


def test_values_may_be_normed_too(isa: str) -> None:
    for h, g, dim in ((3, 1, 5), (2, 2, 40), (4, 2, 64)):
        heads, weight = HeadSpec(h, g, dim, 1e-6), torch.randn(dim)
        qkv = torch.randn(ROWS, (h + 2 * g) * dim)
        layers = [empty("float32", PLACES[0], 4, g, dim) for _ in range(2)]
        rig = Rig()
        a = rig.rows(qkv)
        rig.place(a, heads, layer=0)
        rig.place(a, heads, layer=1, v_norm=weight)
        rig.run(ROWS, layers=layers, starts=STARTS, slots=SLOTS, lengths=LENGTHS)
        assert same_bits(layers[0].keys, layers[1].keys)
        exact, error = normed_heads(parts(qkv, heads)[2].double(), weight.double(), heads)
        found = keys_of(replace(layers[1], keys=layers[1].values)).double()
        assert ((found - exact).abs() <= error + 1e-37).all()


def test_layers_may_read_tables_that_lie_side_by_side(isa: str) -> None:
    heads, layers = HeadSpec(2, 1, 20), [empty("float32", PLACES[0], 4, 1, 20) for _ in range(3)]
    dims, begins, stride = (20, 8, 0), (5, 1, 0), 17
    qkv, rope = torch.randn(ROWS, 4 * 20), tables(2 * stride)
    rig = Rig()
    a = rig.rows(qkv)
    for layer, (dim, begin) in enumerate(zip(dims, begins, strict=True)):
        rig.place(a, heads, None, dim, layer, begin, stride)
    rig.run(ROWS, layers=layers, starts=STARTS, slots=SLOTS, lengths=LENGTHS, rope=rope)
    for layer, (dim, begin) in enumerate(zip(dims, begins, strict=True)):
        cos, sin = (x[:, begin : begin + dim // 2].contiguous() for x in (rope.cos, rope.sin))
        alone = RopeTables(cos, sin, rope.rows) if dim else None
        found = place(qkv, heads, "float32", PLACES[0], rope=alone).layer
        assert same_bits(layers[layer].keys, found.keys)


def keys_of(layer: LayerBuffers) -> Tensor:
    """The step's own keys (N, G, D) as they lie in the layer."""
    found = []
    for sequence, slot in enumerate(SLOTS):
        a, b = STARTS[sequence], STARTS[sequence + 1]
        entries = LENGTHS[sequence] - b + torch.arange(a, b)
        found.append(layer.keys[0][slot][:, entries].transpose(0, 1))
    return torch.cat(found)


@codecs
def test_codecs_get_what_was_normed_and_rotated(isa: str, codec: KVDtype) -> None:
    """Any codec's bytes are the reference's for the keys that a float32 store was given, and its
    queries those, rounded where attention computes in bfloat16."""
    for index, (h, g, dim, rotated) in enumerate(HEADS):
        if not in_part(index, NAMES.index(isa), CODECS.index(codec), out_of=2):
            continue
        heads, placement = HeadSpec(h, g, dim, 1e-6), PLACES[index % len(PLACES)]
        norms, rope = (torch.randn(dim), torch.randn(dim)), tables(rotated) if rotated else None
        qkv = torch.randn(ROWS, (h + 2 * g) * dim)
        wide = place(qkv, heads, "float32", placement, norms, rope, threads=1)
        found = place(qkv, heads, codec, placement, norms, rope, threads=3)
        keys = keys_of(wide.layer)
        expected = expected_store(keys, parts(qkv, heads)[2], codec, placement, heads)
        assert same_bits(found.layer.keys, expected.keys)
        assert same_bits(found.layer.values, expected.values)
        stored = found.layer.codec
        queries = stored.keys.turned(wide.queries)
        if not computes_in_floats(stored):
            queries = queries.bfloat16().float()
        assert torch.equal(found.queries, queries)
