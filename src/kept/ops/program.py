"""A trace turned into one native call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kept.batch import Batch
from kept.ops import lines, norms
from kept.ops.backend import isa, use_threads
from kept.ops.buffers import Buffer
from kept.ops.kv_codec import KVCodec
from kept.ops.native_shape import computes_in_floats, native_shape, or_none
from kept.ops.program_lines import ProgramLines
from kept.ops.row_buffers import RowBuffers
from kept.ops.step_buffers import RopeTables, StepBuffers, check_ids

if TYPE_CHECKING:
    from kept import _native


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
        self._written = ProgramLines(self._native, self._buffers)
        for at, line in enumerate(traced.lines):
            if at in traced.starts:
                self._buffers.begin_block()
            self._written.add(line)
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
