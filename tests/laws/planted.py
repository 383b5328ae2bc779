"""Clocks and passes that do what a test says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from kept.engine import Engine, loop


@contextmanager
def clock(seconds: Sequence[float]) -> Iterator[SimpleNamespace]:
    """The loop's clocks: for deadlines the step's number, for steps' times `seconds` in turn."""
    now, passed = SimpleNamespace(step=0), [0.0, 0]

    def perf_counter() -> float:
        passed[0] += seconds[int(passed[1]) % len(seconds)]
        passed[1] += 1
        return passed[0]

    with pytest.MonkeyPatch.context() as patch:
        fake = SimpleNamespace(monotonic=lambda: float(now.step), perf_counter=perf_counter)
        patch.setattr(loop, "time", fake)
        yield now


@contextmanager
def failing(engine: Engine, fails: tuple[int, Exception] | None) -> Iterator[None]:
    """Have one pass of the engine raise."""
    run, passes = engine.model.next_logits, [0]

    def counted(*arguments: Any) -> Any:
        passes[0] += 1
        if fails is not None and passes[0] == fails[0]:
            raise fails[1]
        return run(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.model, "next_logits", counted, raising=False)
        yield
