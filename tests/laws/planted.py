"""Clocks and passes that do what a test says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from kept.engine import Engine, drafting, loop, model_drafts
from kept.engine.draft_worth import DraftWorth, Hope
from kept.engine.model_worth import ModelWorth
from kept.engine.passes import Work


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


class RecklessModel(ModelWorth):
    """Has a draft model draft, by a draw, whatever that is worth."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._draws = Random(seed)

    @property
    def mean(self) -> float:
        """See `ModelWorth.mean`."""
        return self._draws.choice([0.0, 0.7])

    def spare(self, plain: float, num_left: int) -> float:
        """See `ModelWorth.spare`."""
        return self._draws.choice([0.0, 1.0, 1.0, 1e9])

    def depth(self, rows: int, num_drafting: int, most: int, *seconds: float) -> int:
        """See `ModelWorth.depth`."""
        return self._draws.choice([0, 1, 1, 1])


class Reckless(DraftWorth):
    """Chooses drafts by a draw, whatever they are worth."""

    def __init__(self, engine: Engine, seed: int) -> None:
        super().__init__(engine.scheduler.step_time)
        self._draws = Random(seed)

    @property
    def may_try(self) -> bool:
        """See `DraftWorth.may_try`."""
        return True

    def plain(self, work: Sequence[Work]) -> float:
        """See `DraftWorth.plain`."""
        return 1.0

    def with_drafts(self, work: Sequence[Work]) -> float:
        """See `DraftWorth.with_drafts`."""
        return 1.0

    def row_seconds(self, work: Sequence[Work], count: int) -> float:
        """See `DraftWorth.row_seconds`."""
        return 0.0

    def choose(self, work: Sequence[Work], hopes: Sequence[Hope]) -> dict[int, int]:
        """See `DraftWorth.choose`."""
        self._expected = 1.0, 1.0
        return {hope.number: self._draws.randint(0, len(hope.tokens)) for hope in hopes}


@contextmanager
def drafting_freely(engine: Engine, seed: int | None) -> Iterator[None]:
    """Have an engine draft what a draw of this seed says; None: as it would."""
    with pytest.MonkeyPatch.context() as patch:
        if seed is not None:
            patch.setattr(drafting, "LEAST_FIRST", 0.0)
            patch.setattr(drafting, "LEAST_CHANCE", 0.0)
            patch.setattr(model_drafts, "LEAST_TAIL", 2)
            engine._worth = engine._drafting._worth = Reckless(engine, seed)
            if engine._drafting.by_model is not None:
                engine._drafting.by_model._texts_worth = engine._worth
                engine._drafting.by_model.worth = RecklessModel(seed)
        yield
