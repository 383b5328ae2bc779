"""The lines of a mixture of experts, as operations of a native program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kept.ops import lines
from kept.ops.native_activation import native_activation
from kept.ops.row_buffers import RowBuffers

if TYPE_CHECKING:
    from kept import _native

_NONE = -1  # in place of a buffer

ExpertLine = lines.Choose | lines.Gather | lines.Experts | lines.Combine


def add_expert_line(native: _native.Program, buffers: RowBuffers, line: ExpertLine) -> None:
    """Add a line to a program. Mutates both."""
    from kept import _native

    match line:
        case lines.Choose(scores, num_experts, routing, has_shared, bias):
            native.choose(
                buffers[scores], num_experts, routing.top_k, routing.normalised, has_shared,
                routing.scoring == "sigmoid", routing.scale, bias, routing.num_groups,
                routing.top_groups, routing.group_best,
            )  # fmt: skip
        case lines.Gather(x, out):
            native.gather(buffers[x], buffers[out])
        case lines.Experts(x, ungathered, weights, out, epilogue, activation):
            native.experts(
                buffers[x],
                _NONE if ungathered is None else buffers[ungathered],
                native.add_expert_weights([each.handle for each in weights]),
                getattr(_native.Epilogue, epilogue),
                native_activation(activation),
                buffers[out],
            )
        case lines.Combine(x, shared, out, add):
            native.combine(
                buffers[x], _NONE if shared is None else buffers[shared], buffers[out], add
            )
