"""A trace turned into one native call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kept.batch import Batch
from kept.errors import OptionError
from kept.ops import lines, norms
from kept.ops.adapters import Adapters
from kept.ops.backend import MAX_HEAD_DIM, isa, use_threads
from kept.ops.bias import Bias, LinearBias
from kept.ops.buffers import Buffer
from kept.ops.kv_codec import KVCodec
from kept.ops.native_activation import native_activation
from kept.ops.native_shape import computes_in_floats, native_shape, or_none
from kept.ops.packed import PackedMatrix
from kept.ops.packed_adapters import add_adapters
from kept.ops.program_experts import add_expert_line
from kept.ops.program_latent import add_latent_line
from kept.ops.program_streams import add_stream_line
from kept.ops.row_buffers import RowBuffers
from kept.ops.spec import AttentionSpec
from kept.ops.step_buffers import RopeTables, StepBuffers, check_ids

if TYPE_CHECKING:
    from kept import _native

TILE = 64  # keys that the kernels attend together


class Program:
    """The operations of a trace, ready to run on all threads in one call.

    Not to be shared between threads.
    """

    def __init__(self, traced: lines.Trace, *, reuses: bool = False) -> None:
        """reuses: see `RowBuffers`. Raises OptionError for heads wider than the kernels take."""
        from kept import _native

        use_threads()
        self.isa = isa()
        self._native = _native.Program(self.isa)
        self._lines = traced.lines
        self.starts = tuple(traced.starts)
        first = traced.lines[0]
        assert isinstance(first, lines.Embed), "a model begins with its embedding"
        self.residual = traced.residual or first.out
        self._buffers = RowBuffers(self._native, reuses)
        self._buffers.keep(self.residual)
        self._weights: dict[PackedMatrix, int] = {}
        self._biases: dict[Bias, Tensor] = {}
        self._adapters: dict[Adapters, int] = {}
        for at, line in enumerate(traced.lines):
            if at in traced.starts:
                self._buffers.begin_block()
            self._add(line)
        last = traced.lines[-1]
        self.vocab_size = 0  # an encoder ends in what is stored of it
        if isinstance(last, lines.Linear) and last.epilogue == "logits":
            self.vocab_size = last.weight.num_out

    def __len__(self) -> int:
        """How many operations there are."""
        return len(self._lines)

    @property
    def row_bytes(self) -> int:
        """Bytes of the buffers between operations for each row of a step."""
        return self._buffers.row_bytes

    def attends(self) -> tuple[tuple[int, lines.Attend], ...]:
        """The operations that attend, by number."""
        return tuple((i, x) for i, x in enumerate(self._lines) if isinstance(x, lines.Attend))

    def step(
        self,
        batch: Batch,
        stores: StepBuffers,
        rope: RopeTables | None,
        logits: Tensor,
        top_k: int = 0,
    ) -> _native.Step:
        """Bind the operations to a batch, the layers' buffers and the room for logits (M, V) fp32.

        top_k: how many of the largest logits `top` will say of each row, at most V. The step
        keeps all of these alive. Raises OptionError for a codec the kernels do not
        read, and for tensors of the batch that are not what `Batch` says.
        """
        rows = batch.num_rows
        check_ids("tokens", batch.tokens, rows)
        check_ids("positions", batch.positions, rows)
        if batch.wanted is not None:
            check_ids("wanted", batch.wanted, logits.shape[0])
        ids = batch.tokens, batch.positions, batch.wanted
        return self._step(
            rows, ids, batch.starts, stores, rope, logits, len(logits), top_k, batch.adapters
        )

    def _step(
        self,
        rows: int,
        ids: tuple[Tensor | None, Tensor | None, Tensor | None],
        starts: Sequence[int],
        stores: StepBuffers,
        rope: RopeTables | None,
        logits: Tensor,
        num_wanted: int,
        top_k: int,
        adapters: Sequence[int],
    ) -> _native.Step:
        """ids: tokens, positions and wanted rows."""
        from kept import _native

        tokens, positions, wanted = ids
        inputs = stores.inputs
        return _native.step(
            rows=rows,
            tokens=tokens,
            positions=positions,
            starts=starts,
            tables=stores.tables,
            lengths=stores.lengths,
            wanted=wanted,
            num_wanted=num_wanted,
            cos=None if rope is None else rope.cos,
            sin=None if rope is None else rope.sin,
            rope_rows=None if rope is None else rope.rows,
            layouts=[(p.block, p.sinks, or_none(p.window)) for p in stores.placements],
            layers=stores.buffers.native(),
            logits=logits,
            vocabulary=self.vocab_size,
            top_k=min(top_k, self.vocab_size),
            inputs=[] if inputs is None else [x.native() for x in inputs.buffers],
            input_lengths=[] if inputs is None else inputs.lengths,
            input_of=[] if inputs is None else inputs.of,
            adapters=adapters,
        )

    def run(self, step: _native.Step, first: int = 0, last: int | None = None) -> None:
        """Carry out operations first to last. Mutates the layers' buffers and the logits.

        Raises IndexError, before that, for a token, position or wanted row that does not exist.
        """
        self._native.run(step, first, len(self._lines) if last is None else last)

    def repeat(
        self,
        lengths: Sequence[int],
        stores: StepBuffers,
        rope: RopeTables | None,
        logits: Tensor,
        top_k: int = 0,
        adapters: Sequence[int] = (),
    ) -> _native.Repeat:
        """Steps that add one token to each of B sequences of so many tokens; arguments as of
        `step`, stores of the step before the first of these. Its tables' rows are positions.

        Nothing here is torch's to compute: the first thing it does after a step costs more than all
        the rest, as its code has left the processor's caches.
        """
        from kept import _native

        count = len(lengths)
        starts, none = range(count + 1), (None, None, None)
        last = self._step(count, none, starts, stores, rope, logits, count, top_k, adapters)
        return _native.Repeat(self._native, last, [length - 1 for length in lengths])

    def run_again(self, repeat: _native.Repeat, tokens: list[int]) -> list[tuple[float, int]]:
        """Run the next of these steps, with its tokens (B,); returns what `best` does.

        Mutates the layers' buffers and the logits. The repeat is spent if it raises.
        """
        return repeat.run(tokens)

    def best(self) -> list[tuple[float, int]]:
        """The largest logit of each wanted row of the last run, and the first token that has it."""
        return self._native.best

    def top(self) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
        """The K largest logits (M, K) fp32 of each row wanted of the last run, and their tokens
        (M, K) int64.

        The largest come first, NaN before any number, and of equal ones the lower token. K is what
        the step asked for, None if nothing; M is 0 if the run made no logits.
        """
        found = self._native.top
        return found if found[0].shape[1] else None

    def rows(self, buffer: Buffer, count: int) -> Tensor:
        """Rows (count, width) of an fp32 buffer as the last run left them."""
        out = torch.empty(count, buffer.width, dtype=torch.float32, device="cpu")
        self._native.read_buffer(self._buffers[buffer], count, out)
        return out

    def queries(self, line: lines.Attend, count: int, codec: KVCodec) -> Tensor:
        """Queries (count, H, D) fp32, as the line reads them over what `codec` stores: rounded
        where it computes in bfloat16, and rotated where keys are."""
        heads = line.heads
        size = count, heads.num_heads, heads.head_dim
        out = torch.empty(size, dtype=torch.float32, device="cpu")
        floats = computes_in_floats(codec)
        shape = native_shape(heads, line.spec)
        self._native.read_queries(self._buffers[line.queries], count, shape, floats, out)
        return out

    def final_norm(self, count: int) -> Tensor:
        """The last norm (N, E) fp32 of what stands before it as the last run left that, of so many
        rows; by the reference and not scaled."""
        line = next(line for line in reversed(self._lines) if isinstance(line, lines.Norm))
        x = self.rows(line.x, count)
        if line.bias is None:
            return norms.rms_norm(x, line.weight, line.eps)
        return norms.layer_norm(x, line.weight, line.bias, line.eps)

    def _add(self, line: lines.Line) -> None:
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
            case lines.Place(
                qkv,
                queries,
                layer,
                heads,
                q_norm,
                k_norm,
                dim,
                begin,
                stride,
                only,
                crossing,
                v_norm,
            ):
                if heads.head_dim > MAX_HEAD_DIM:
                    raise OptionError(
                        f"the native kernels take heads of up to {MAX_HEAD_DIM} numbers, and this "
                        f"model has {heads.head_dim}; use KEPT_OPS=reference"
                    )
                taken = heads
                if only is not None:
                    left_out = {"queries": "num_kv_heads", "keys": "num_heads"}[only]
                    taken = replace(heads, **{left_out: 0})  # type: ignore[arg-type]
                shape = native_shape(taken, AttentionSpec(1.0))
                by_head = q_norm is not None and q_norm.dim() == 2
                native.place(
                    self._buffers[qkv], self._buffers[queries], layer, shape, q_norm, k_norm,
                    v_norm, heads.norm_eps, by_head, heads.centred, dim, begin,
                    dim // 2 if stride is None else stride, heads.neighbours, crossing,
                )  # fmt: skip
            case lines.Attend(queries, layer, heads, spec, out, bias, crossing):
                native.attend(
                    self._buffers[queries], layer, native_shape(heads, spec), self._buffers[out],
                    *self._by_distance(bias), crossing, _idle(spec),
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
