"""Computing as torch does by itself, whatever its caller has set around it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ContextDecorator, ExitStack, contextmanager
from typing import Any, Self

import torch
from torch.utils._python_dispatch import _disable_current_modes

_PRODUCTS = "mkldnn", "matmul"  # what multiplies fp32 matrices on a CPU, as torch names it
_EXACT = "none", "ieee"


class plain_torch(ContextDecorator):  # used as torch's own are
    """Lift autocast and the modes for functions and dispatch meanwhile, a default device among
    them. Whether gradients are recorded stays the caller's.

    watched: leave the modes for dispatch, with which torch's own tools count what a model computes.
    """

    def __init__(self, *, watched: bool = False) -> None:
        self._watched = watched
        self._lifted: ExitStack | None = None

    def _recreate_cm(self) -> Self:
        return type(self)(watched=self._watched)

    def __enter__(self) -> None:
        if (
            torch._C._len_torch_function_stack() > 0
            or torch._C._len_torch_dispatch_stack() > 0
            or torch._C._is_any_autocast_enabled()
        ):
            with ExitStack() as lifted:
                lifted.enter_context(torch._C._DisableAutocast())
                lifted.enter_context(torch._C.DisableTorchFunction())
                if not self._watched:
                    lifted.enter_context(_disable_current_modes())
                self._lifted = lifted.pop_all()

    def __exit__(self, *error: Any) -> None:
        if self._lifted is not None:
            self._lifted.__exit__(*error)


class _ExactProducts:
    """The setting is the process's: the first to come changes it, the last to go restores it."""

    def __init__(self) -> None:
        self._lock, self._inside, self._before = threading.Lock(), 0, "none"

    def enter(self) -> None:
        with self._lock:
            found = torch._C._get_fp32_precision_getter(*_PRODUCTS)
            if not self._inside or found not in _EXACT:
                self._before = found
            self._inside += 1
            if found not in _EXACT:
                torch._C._set_fp32_precision_setter(*_PRODUCTS, "ieee")

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._before not in _EXACT:
                torch._C._set_fp32_precision_setter(*_PRODUCTS, self._before)


_exact = _ExactProducts()


@contextmanager
def exact_products() -> Iterator[None]:
    """Have torch multiply fp32 matrices as such on the CPU meanwhile, in the whole process, where
    `torch.set_float32_matmul_precision` or a backend's `fp32_precision` allow it less."""
    _exact.enter()
    try:
        yield
    finally:
        _exact.leave()
