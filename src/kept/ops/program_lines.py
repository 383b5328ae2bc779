"""The lines of a trace, as operations of a native program."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from kept.errors import OptionError
from kept.ops import lines
from kept.ops.adapters import Adapters
from kept.ops.backend import MAX_HEAD_DIM
from kept.ops.bias import Bias, LinearBias
from kept.ops.native_activation import native_activation
from kept.ops.native_shape import native_shape
from kept.ops.packed import PackedMatrix
from kept.ops.packed_adapters import add_adapters
from kept.ops.program_experts import add_expert_line
from kept.ops.program_latent import add_latent_line
from kept.ops.program_streams import add_stream_line
from kept.ops.row_buffers import RowBuffers
from kept.ops.spec import AttentionSpec

if TYPE_CHECKING:
    from kept import _native

TILE = 64  # keys that the kernels attend together


class ProgramLines:
    """Writes lines into a native program, each matrix, bias and set of adapters once.

    The program reads them where they lie, so this has to live as long as it does.
    """

    def __init__(self, native: _native.Program, buffers: RowBuffers) -> None:
        """Both are mutated by what is added."""
        self._native, self._buffers = native, buffers
        self._weights: dict[PackedMatrix, int] = {}
        self._biases: dict[Bias, Tensor] = {}
        self._adapters: dict[Adapters, int] = {}

    def add(self, line: lines.Line) -> None:
        """Write the next line. Raises OptionError for heads wider than the kernels take."""
        from kept import _native

        native = self._native
        match line:
            case lines.Embed(table, positions, out, scale, others_first):
                count, to = 0 if positions is None else len(positions), self._buffers[out]
                native.embed(self._matrix(table), positions, count, to, scale, others_first)
            case lines.Norm(x, weight, bias, eps, out, wanted, add, scale, begin):
                weight, bias = weight * scale, None if bias is None else bias * scale
                at, to = self._buffers[x], self._buffers[out]
                native.norm(at, weight, bias, eps, to, wanted, add, begin, len(weight))
            case lines.Round(x, out, factor, by, begin):
                other = -1 if by is None else self._buffers[by]
                native.round(self._buffers[x], self._buffers[out], factor, other, begin)
            case lines.Quantize(x, out, wanted):
                native.quantize(self._buffers[x], self._buffers[out], wanted)
            case lines.Shrink(x, weight, adapters):
                self._adapters[adapters] = add_adapters(native, adapters, weight)
                native.shrink(self._buffers[x], self._adapters[adapters])
            case lines.Linear(
                x, weight, out, epilogue, activation, wanted, softcap, scale, adapted
            ):
                native.linear(
                    self._buffers[x], self._matrix(weight), getattr(_native.Epilogue, epilogue),
                    native_activation(activation), self._buffers[out], wanted, softcap, scale,
                    -1 if adapted is None else self._adapters[adapted],
                )  # fmt: skip
            case lines.PlaceLatent() | lines.HeadProducts():
                add_latent_line(native, self._buffers, line)
            case lines.Choose() | lines.Gather() | lines.Experts() | lines.Combine():
                add_expert_line(native, self._buffers, line)
            case (
                lines.Columns()
                | lines.Match()
                | lines.Predict()
                | lines.Correct()
                | lines.GateSparsely()
            ):
                add_stream_line(native, self._buffers, line)
            case lines.Place():
                self._place(line)
            case lines.Attend(queries, layer, heads, spec, out, bias, crossing):
                native.attend(
                    self._buffers[queries], layer, native_shape(heads, spec), self._buffers[out],
                    *self._by_distance(bias), crossing, _idle(spec),
                )  # fmt: skip

    def _place(self, line: lines.Place) -> None:
        heads, only, dim = line.heads, line.only, line.rope_dim
        if heads.head_dim > MAX_HEAD_DIM:
            raise OptionError(
                f"the native kernels take heads of up to {MAX_HEAD_DIM} numbers, and this "
                f"model has {heads.head_dim}; use KEPT_OPS=reference"
            )
        taken = heads
        if only is not None:
            left_out = {"queries": "num_kv_heads", "keys": "num_heads"}[only]
            taken = replace(heads, **{left_out: 0})  # type: ignore[arg-type]
        by_head = line.q_norm is not None and line.q_norm.dim() == 2
        self._native.place(
            self._buffers[line.qkv], self._buffers[line.queries], line.layer,
            native_shape(taken, AttentionSpec(1.0)), line.q_norm, line.k_norm, line.v_norm,
            heads.norm_eps, by_head, heads.centred, dim, line.rope_begin,
            dim // 2 if line.rope_stride is None else line.rope_stride, heads.neighbours,
            line.crossing,
        )  # fmt: skip

    def _by_distance(self, bias: Bias | None) -> tuple[Tensor | None, int, Tensor | None]:
        """A bias as the kernels take it: a table and how far it reaches, or slopes."""
        if bias is None:
            return None, 0, None
        if isinstance(bias, LinearBias):
            return None, 0, self._biases.setdefault(bias, bias.slopes.float().contiguous().cpu())
        if bias not in self._biases:
            self._biases[bias] = bias.by_distance(TILE)
        return self._biases[bias], bias.reach, None

    def _matrix(self, matrix: PackedMatrix) -> int:
        if matrix not in self._weights:
            self._weights[matrix] = self._native.add_weights(matrix.handle)
        return self._weights[matrix]


def _idle(spec: AttentionSpec) -> Tensor | None:
    return None if spec.idle is None else spec.idle.detach().float().contiguous()
