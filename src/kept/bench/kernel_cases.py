"""The linear layers and the attention of a known shape, as operations to time alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from kept.bench.kernel_walk import NUM_INPUTS, BoundStep, Case, Stored, Walk
from kept.bench.shapes import shape_config
from kept.bench.work import Work, num_pairs
from kept.machine import MatrixDtype
from kept.models import build_model
from kept.models.layers import Linear
from kept.ops import (
    AttentionSpec,
    Codec,
    HeadSpec,
    PackedMatrix,
    Program,
    find_kv_codec,
    lines,
    pack_int4,
    pack_int8,
    pack_matrix,
)
from kept.ops.quantize import QUANTIZED_FORMATS, quantize

FORMATS = ("fp32", "bf16", "int8", "int4")
CODECS = ("float32", "bfloat16", "float16", "int8", "k8v4", "int4")
_FLOAT_CODECS = ("float32", "float16")  # over these the kernels compute in fp32
_STD = 0.02


@dataclass(frozen=True, slots=True)
class Layer:
    """A linear layer (out, in), and what the kernels do with its product."""

    name: str
    num_out: int
    num_in: int
    gated: bool
    bias: bool
    epilogue: str
    activation: str


def shape_layers(shape: str) -> tuple[Layer, ...]:
    """The linear layers of a shape's block, and its head. Raises OptionError for no such shape."""
    model = build_model(shape_config(shape))
    activation = getattr(model.config, "activation", "none")
    # What ends a half of a block is added to its input, unless a norm comes first and does that.
    last = "store" if getattr(model.config, "post_norms", False) else "add"
    found = []
    for path, module in model.blocks[0].named_modules():
        if isinstance(module, Linear):
            found.append(_layer(path.rpartition(".")[2], module, activation, last))
    head: Any = model.head
    return (*found, _layer("head", head, activation, last))


def _layer(name: str, module: Linear, activation: str, last: str) -> Layer:
    epilogues = {"qkv": "store", "up": "activate", "gate_up": "gate", "head": "logits"}
    epilogue = epilogues.get(name, last)
    num_out, num_in = module.weight.shape
    used = activation if epilogue in ("activate", "gate") else "none"
    return Layer(name, num_out, num_in, module.gated, module.bias is not None, epilogue, used)


def shape_heads(shape: str) -> HeadSpec:
    """How a shape's attention falls into heads. Raises OptionError for no such shape."""
    model = build_model(shape_config(shape))
    kv = model.kv_shapes[0]
    return HeadSpec(model.config.num_heads, kv.num_kv_heads, kv.head_dim)


@dataclass(slots=True)
class LinearGroup:
    """A layer in one format, for several counts of rows."""

    layer: Layer
    format: str
    rows: Sequence[int]
    cases: tuple[Case, ...] = field(init=False)
    each: int = field(init=False)
    beside: int = field(init=False)

    def __post_init__(self) -> None:
        layer = self.layer
        numbers = layer.num_out * layer.num_in
        self.each = packed_bytes(self.format, layer)
        # The matrix to pack and its codes; logits, which only the head writes.
        logits = 4 * layer.num_out * max(self.rows) if layer.epilogue == "logits" else 0
        self.beside = 5 * numbers + logits
        self.cases = tuple(
            Case(
                "linear",
                layer.name,
                self.format,
                rows,
                None,
                Work(self.each, 0, 2 * rows * numbers),
                "fp32" if self.format == "fp32" else "bf16",
            )
            for rows in self.rows
        )

    def walks(self, num_copies: int) -> Iterator[Walk]:
        """See `Group.walks`."""
        layer = self.layer
        first = _pack(layer, self.format)
        matrices = [first, *(_copy(first) for _ in range(num_copies - 1))]
        table = pack_matrix(_random(NUM_INPUTS, layer.num_in), "fp32")
        # What is written for the next layer is rounded as that one reads it.
        feeds = [first] if layer.epilogue in ("activate", "gate") else []
        width = layer.num_out // 2 if layer.gated else layer.num_out
        residual, x = lines.Buffer(layer.num_in), lines.Buffer(layer.num_in, [first])
        out = lines.Buffer(width, feeds)
        written: list[lines.Line] = [
            lines.Embed(table, None, residual),
            lines.Norm(residual, _ones(layer.num_in), None, 1e-6, x, False),
        ]
        before = len(written)
        written += (lines.Linear(x, m, out, layer.epilogue, layer.activation) for m in matrices)
        program = Program(lines.Trace(written))
        for case in self.cases:
            step = BoundStep(program, case.rows, case.rows if layer.epilogue == "logits" else 1)
            yield Walk(program, step.native, before, num_copies, case)


@dataclass(slots=True)
class AttentionGroup:
    """Attention over one length in one codec: its last row, and its last `chunk` rows if any."""

    heads: HeadSpec
    codec: str
    length: int
    chunk: int | None
    cases: tuple[Case, ...] = field(init=False)
    each: int = field(init=False)
    beside: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        heads = self.heads
        numbers = heads.num_kv_heads * self.length
        self.each = numbers * find_kv_codec(self.codec).num_bytes(heads.head_dim)
        self.beside = 16 * numbers * heads.head_dim  # random numbers to encode, and their codes
        chunk = () if self.chunk is None else (("prompt", self.chunk),)
        self.cases = tuple(self._case(*each) for each in (("decode", 1), *chunk))

    def _case(self, name: str, rows: int) -> Case:
        pairs = num_pairs(self.length, None) - num_pairs(self.length - rows, None)
        operations = 4 * self.heads.num_heads * self.heads.head_dim * pairs
        arithmetic: MatrixDtype = "fp32" if self.codec in _FLOAT_CODECS else "bf16"
        work = Work(0, self.each, operations)
        return Case("attention", name, self.codec, rows, self.length, work, arithmetic)

    def walks(self, num_copies: int) -> Iterator[Walk]:
        """See `Group.walks`. A copy is what one layer stores."""
        heads = self.heads
        codec = find_kv_codec(self.codec)
        sides = (self._fill(side, num_copies) for side in (codec.keys, codec.values))
        stored = Stored(self.codec, self.length, *sides)
        width = heads.num_heads * heads.head_dim
        fused = width + 2 * heads.num_kv_heads * heads.head_dim
        table = pack_matrix(_random(NUM_INPUTS, fused), "fp32")
        last = pack_matrix(_ones(1, width), self.cases[0].arithmetic)
        qkv, out = lines.Buffer(fused), lines.Buffer(width, [last])
        queries = lines.Buffer(heads.num_heads * -(-heads.head_dim // 32) * 32)
        spec = AttentionSpec(heads.head_dim**-0.5)
        written: list[lines.Line] = [
            lines.Embed(table, None, qkv),
            lines.Place(qkv, queries, 0, heads, None, None, 0),
        ]
        before = len(written)
        written += (lines.Attend(queries, layer, heads, spec, out) for layer in range(num_copies))
        written.append(lines.Linear(out, last, lines.Buffer(1), "logits"))
        program = Program(lines.Trace(written))
        for case in self.cases:
            step = BoundStep(program, case.rows, 1, stored)
            yield Walk(program, step.native, before, num_copies, case)

    def _fill(self, codec: Codec, num_copies: int) -> list[Tensor]:
        heads = self.heads
        numbers = _random(1, heads.num_kv_heads, self.length, heads.head_dim)
        found = []
        for part, one in zip(codec.parts(heads.head_dim), codec.encode(numbers), strict=True):
            room = torch.empty(num_copies, *one.shape, dtype=part.dtype, device="cpu")
            found.append(room.copy_(one.expand_as(room)))
        return found


def packed_bytes(format: str, layer: Layer) -> int:
    """What `PackedMatrix.num_bytes` will be, without packing."""
    from kept import _native

    kind = getattr(_native.Format, format)
    shape = _native.weights(kind, layer.gated, layer.num_out, layer.num_in)
    scales = {"int8": 4 * 32, "int4": 2 * 32 * shape.num_groups}
    bias = 4 * 32 if layer.bias else 0
    return shape.num_panels * (shape.bytes_per_panel + scales.get(format, 0) + bias)


def _random(*size: int) -> Tensor:
    return torch.randn(size, dtype=torch.float32, device="cpu")


def _ones(*size: int) -> Tensor:
    return torch.ones(size, dtype=torch.float32, device="cpu")


def _pack(layer: Layer, format: str) -> PackedMatrix:
    weight = _random(layer.num_out, layer.num_in).mul_(_STD)
    bias = _random(layer.num_out) if layer.bias else None
    if format not in QUANTIZED_FORMATS:
        return pack_matrix(weight, format, gated=layer.gated, bias=bias)
    found = quantize(weight, format)
    pack = pack_int8 if format == "int8" else pack_int4
    return pack(found.codes, found.scales, gated=layer.gated, bias=bias)


def _copy(matrix: PackedMatrix) -> PackedMatrix:
    """The same in other memory, which is had as packing has it."""
    from kept import _native

    data = _native.zeros(matrix.data.nbytes).copy_(matrix.data)
    parts = (matrix.channel_scales, matrix.group_scales)
    channel, group = (None if x is None else x.clone() for x in parts)
    return replace(matrix, data=data, channel_scales=channel, group_scales=group)
