"""How much of an engine step is the kernels' part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from kept.models import CausalLM


class ModelClock:
    """Adds up the seconds spent in a model's kernels."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count a pass."""
        self._seconds += seconds

    def take(self) -> float:
        """Seconds since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


@contextmanager
def model_clock(model: CausalLM) -> Iterator[ModelClock]:
    """Time the kernels of a model's passes for a while: the native program, or `model.run`.

    The rest of a step is scheduling, packing, sampling and bookkeeping.
    """
    clock = ModelClock()
    target: Any = model if model.native is None else model.native.program
    names = ("run",) if model.native is None else ("run", "run_again")
    for name in names:
        vars(target)[name] = _timed(getattr(target, name), clock)
    try:
        yield clock
    finally:
        for name in names:
            del vars(target)[name]


def _timed(run: Callable[..., Any], clock: ModelClock) -> Callable[..., Any]:
    def timed(*arguments: Any, **options: Any) -> Any:
        start = perf_counter()
        try:
            return run(*arguments, **options)
        finally:
            clock.add(perf_counter() - start)

    return timed
