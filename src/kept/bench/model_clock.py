"""How much of an engine step is the kernels' part."""

from __future__ import annotations

from collections.abc import Iterator
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
    target: Any = model if model.native is None else model.native.program
    clock, run = ModelClock(), target.run

    def timed(*arguments: Any, **options: Any) -> Any:
        start = perf_counter()
        try:
            return run(*arguments, **options)
        finally:
            clock.add(perf_counter() - start)

    vars(target)["run"] = timed
    try:
        yield clock
    finally:
        del vars(target)["run"]
