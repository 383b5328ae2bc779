"""Latent attention on the kernels, against the reference over the same numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kept.ops import (
    HeadMatrices,
    LatentSpec,
    Placement,
    RopeTables,
    find_kv_codec,
    latent,
    pack_heads,
    trace_latent,
)
from kept.ops.lines import PlaceLatent
from kept.ops.native_shape import native_shape
from kept.ops.spec import AttentionSpec
from kept.ops.trace import Rows
from kept.ops.traced_batch import TracedRope

from .driving import EPS, LayerBuffers, Rig
from .stores import same_bits

HEADS = 5


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(3)


def multiplied(x: Tensor, weight: Tensor, apart: int, format: str, threads: int = 2) -> Tensor:
    rig = Rig()
    rows = Rows(rig.traced, rig.rows(x, bf16=format != "fp32"))
    out = trace_latent.head_products(rows, pack_heads(weight, format), apart)
    return rig.run(len(x), threads=threads)[0].rows(out.buffer, len(x))


@pytest.mark.parametrize(("num_in", "num_out", "apart"), [(32, 64, 40), (96, 32, 96)])
@pytest.mark.parametrize("format", ["fp32", "bf16"])
def test_each_head_by_its_own_matrix(
    isa: str, format: str, num_in: int, num_out: int, apart: int
) -> None:
    x, weight = torch.randn(70, HEADS * apart), torch.randn(HEADS, num_out, num_in)
    if format == "bf16":
        x, weight = x.bfloat16().float(), weight.bfloat16().float()
    whole = multiplied(x, weight, apart, format)
    own = x.double().unflatten(1, (HEADS, apart))[..., :num_in]
    exact = torch.einsum("nha,hba->nhb", own, weight.double()).flatten(1)
    sizes = torch.einsum("nha,hba->nhb", own.abs(), weight.double().abs()).flatten(1)
    assert ((whole - exact).abs() <= EPS * (math.sqrt(num_in) + 1) * sizes).all()
    reference = latent.head_products(x, HeadMatrices(weight), apart)
    torch.testing.assert_close(reference, exact.float(), rtol=0.0, atol=1e-4)
    for threads, rows in ((1, slice(0, 1)), (2, slice(3, 5)), (3, slice(7, 40))):
        assert torch.equal(multiplied(x[rows], weight, apart, format, threads), whole[rows])


class Placed:
    """Rows that are placed into an empty layer of a codec."""

    def __init__(self, neighbours: bool) -> None:
        self.spec = LatentSpec(HEADS, 64, 12, 10, 1e-3, neighbours)
        self.rows = 9
        self.absorbed = torch.randn(self.rows, HEADS * 64)
        self.q = torch.randn(self.rows, HEADS * 22)
        self.compressed = torch.randn(self.rows, 76)
        self.norm = torch.randn(64)
        angles = torch.randn(self.rows, 6)
        self.cos, self.sin = angles.cos(), angles.sin()

    def exactly(self) -> tuple[Tensor, Tensor]:
        """Queries (N, H, D) and keys (N, 1, D)."""
        tables = tuple(torch.cat((x, x), dim=1)[:, None] for x in (self.cos, self.sin))
        q, k, v = latent.split_latent(
            self.absorbed, self.q, self.compressed, self.norm, self.spec, (tables[0], tables[1])
        )
        assert torch.equal(v, k[..., :64])
        return q, k

    def on_kernels(self, codec: str) -> tuple[Tensor, LayerBuffers]:
        """Queries as attention takes them, and the layer."""
        rig, found = Rig(), find_kv_codec(codec)
        parts = found.keys.parts(76)
        keys = tuple(torch.zeros(1, 1, 12, part.width, dtype=part.dtype) for part in parts)
        layer = LayerBuffers(found, keys, (), Placement(12))
        read = [Rows(rig.traced, rig.rows(x)) for x in (self.absorbed, self.q, self.compressed)]
        rope = TracedRope(12)
        heads, _, _ = trace_latent.split_latent(
            read[0], read[1], read[2], self.norm, self.spec, rope
        )
        assert isinstance(heads.place, PlaceLatent)
        heads.place.layer = 0
        tables = RopeTables(self.cos, self.sin, torch.arange(self.rows))
        program, _ = rig.run(self.rows, layers=[layer], rope=tables)
        floats = codec in ("float32", "float16")
        out = torch.empty(self.rows, HEADS, 76)
        shape = native_shape(self.spec.heads, AttentionSpec(1.0))
        buffer = program._buffers[heads.rows.buffer]
        program._native.read_queries(buffer, self.rows, shape, floats, out)
        return out, layer


@pytest.mark.parametrize("neighbours", [True, False])
def test_what_all_heads_attend(isa: str, neighbours: bool) -> None:
    placed = Placed(neighbours)
    queries, keys = placed.exactly()
    found, layer = placed.on_kernels("float32")
    torch.testing.assert_close(found, queries, rtol=0.0, atol=1e-5)
    stored = layer.keys[0][0, :, : placed.rows].transpose(0, 1)
    torch.testing.assert_close(stored, keys, rtol=0.0, atol=1e-5)
    assert not layer.keys[0][0, :, placed.rows :].any()
    for codec in ("float16", "bfloat16", "int8", "int4"):
        turned, coded = placed.on_kernels(codec)
        encoded = [
            x.to(b.dtype) for x, b in zip(coded.codec.keys.encode(stored), coded.keys, strict=True)
        ]
        own = [x[0, :, : placed.rows].transpose(0, 1) for x in coded.keys]
        assert same_bits(own, encoded)
        exact = coded.codec.keys.turned(queries)
        torch.testing.assert_close(turned, exact, rtol=2**-8, atol=1e-4)


def test_what_does_not_fit_is_refused() -> None:
    rig = Rig()
    rows = Rows(rig.traced, rig.rows(torch.randn(3, 60)))
    trace_latent.head_products(rows, pack_heads(torch.randn(2, 32, 30), "fp32"), 30)
    with pytest.raises(ValueError, match="whole panels"):
        rig.run(3)
    rig = Rig()
    rows = Rows(rig.traced, rig.rows(torch.randn(3, 60)))
    trace_latent.head_products(rows, pack_heads(torch.randn(2, 32, 32), "fp32"), 30)
    with pytest.raises(ValueError, match="outgrow the rows"):
        rig.run(3)
