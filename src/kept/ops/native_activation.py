"""Activations as the native kernels know them, whichever product they come behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kept.ops.reference import CLAMPED_SWIGLU

if TYPE_CHECKING:
    from kept import _native

_NAMES: Mapping[str, str] = {
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


def native_activation(name: str) -> _native.Activation:
    """An activation by its name in config.json; "none": there is none."""
    from kept import _native

    found: _native.Activation = getattr(_native.Activation, _NAMES[name])
    return found
