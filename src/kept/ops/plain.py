"""Computing as torch does by itself, whatever its caller has set around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch.utils._python_dispatch import _disable_current_modes


@contextmanager
def plain_torch(*, watched: bool = False) -> Iterator[None]:
    """Lift autocast and the modes for functions and dispatch meanwhile, a default device among
    them. Whether gradients are recorded stays the caller's.

    watched: leave the modes for dispatch, with which torch's own tools count what a model computes.
    """
    if not _is_any_set():
        yield
        return
    dispatch = nullcontext() if watched else _disable_current_modes()
    with torch._C._DisableAutocast(), torch._C.DisableTorchFunction(), dispatch:
        yield


def _is_any_set() -> bool:
    return (
        torch._C._len_torch_function_stack() > 0
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._is_any_autocast_enabled()
    )
