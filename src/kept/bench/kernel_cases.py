"""The linear layers of a known shape, as operations to time alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from kept.bench.kernel_walk import NUM_INPUTS, BoundStep, Case, Walk, random_numbers
from kept.bench.shapes import shape_config
from kept.bench.work import Work
from kept.models import build_model
from kept.models.layers import Linear
from kept.ops import PackedMatrix, Program, lines, pack_int4, pack_int8, pack_matrix
from kept.ops.buffers import Buffer
from kept.ops.quantize import QUANTIZED_FORMATS, quantize

FORMATS = ("fp32", "bf16", "int8", "int4")
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
        table = pack_matrix(random_numbers(NUM_INPUTS, layer.num_in), "fp32")
        # What is written for the next layer is rounded as that one reads it.
        feeds = [first] if layer.epilogue in ("activate", "gate") else []
        width = layer.num_out // 2 if layer.gated else layer.num_out
        residual, x = Buffer(layer.num_in), Buffer(layer.num_in, [first])
        out = Buffer(width, feeds)
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


def packed_bytes(format: str, layer: Layer) -> int:
    """What `PackedMatrix.num_bytes` will be, without packing."""
    from kept import _native

    kind = getattr(_native.Format, format)
    shape = _native.weights(kind, layer.gated, layer.num_out, layer.num_in)
    scales = {"int8": 4 * 32, "int4": 2 * 32 * shape.num_groups}
    bias = 4 * 32 if layer.bias else 0
    return shape.num_panels * (shape.bytes_per_panel + scales.get(format, 0) + bias)


def _ones(*size: int) -> Tensor:
    return torch.ones(size, dtype=torch.float32, device="cpu")


def _pack(layer: Layer, format: str) -> PackedMatrix:
    weight = random_numbers(layer.num_out, layer.num_in).mul_(_STD)
    bias = random_numbers(layer.num_out) if layer.bias else None
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
