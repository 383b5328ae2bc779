"""Running a program in pieces, to write down what passes between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kept import ops
from kept.models.record import Record
from kept.ops import Program, StepBuffers, lines

if TYPE_CHECKING:
    from kept import _native


def run_recorded(
    program: Program, step: _native.Step, num_rows: int, stores: StepBuffers, record: Record
) -> None:
    """Run all layers of a program and the norm behind them, but not what comes then.

    Stops at each layer for its input, and before each attention for its queries. Mutates what the
    step is bound to, and the record.
    """
    attends = dict(program.attends())
    done = 0
    for start, end in zip(program.starts, program.starts[1:], strict=False):
        if stores.visit is not None:
            stores.visit(program.starts.index(start))
        program.run(step, done, start)
        record.take_hidden(program.rows(program.residual, num_rows))
        done = start
        for at in range(start, end):
            if at in attends and record.want_attention:
                program.run(step, done, at)
                _take_attention(program, attends[at], num_rows, stores, record)
                done = at
    program.run(step, done, program.starts[-1])
    if record.want_hidden:
        record.take_hidden(program.final_norm(num_rows))


def _take_attention(
    program: Program, line: lines.Attend, num_rows: int, stores: StepBuffers, record: Record
) -> None:
    if line.crossing:
        assert stores.inputs is not None
        crossed = stores.inputs.view(line.layer)
        queries = crossed.codec.keys.turned(program.queries(line, num_rows, crossed.codec))
        _, weights = ops.attend_with_weights(queries, crossed, line.spec)
        record.cross_attention.append((crossed.span, weights))
        return
    view = stores.view(line.layer)
    queries = view.codec.keys.turned(program.queries(line, num_rows, view.codec))
    _, weights = ops.attend_with_weights(queries, view, line.spec, line.bias)
    record.take_attention(view.span, weights, queries, line.spec)
