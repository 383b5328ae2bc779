"""The lines of a mixture of experts, as operations of a native program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kept.ops import lines
from kept.ops.reference import CLAMPED_SWIGLU
from kept.ops.row_buffers import RowBuffers

if TYPE_CHECKING:
    from kept import _native

_ACTIVATIONS = {
    "none": "none",
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    CLAMPED_SWIGLU: "clamped_swiglu",
}
_NONE = -1  # in place of a buffer

ExpertLine = lines.Choose | lines.Gather | lines.Experts | lines.Combine


def native_activation(name: str) -> _native.Activation:
    """An activation by its config name, as the kernels know it."""
    from kept import _native

    found: _native.Activation = getattr(_native.Activation, _ACTIVATIONS[name])
    return found


def add_expert_line(native: _native.Program, buffers: RowBuffers, line: ExpertLine) -> None:
    """Add a line to a program. Mutates both."""
    from kept import _native

    match line:
        case lines.Choose(scores, num_experts, routing, has_shared):
            native.choose(
                buffers[scores], num_experts, routing.top_k, routing.normalised, has_shared
            )
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
