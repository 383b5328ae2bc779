"""What steps of one kind take beside their pass."""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import Final

from kept.engine.step_time import StepTime

LATE: Final = 9  # steps that count


class Residual:
    """Seconds that late steps have taken beyond what is predicted of their passes by now: a fit may
    have been another when they were taken."""

    def __init__(self, step_time: StepTime) -> None:
        self._step_time = step_time
        self._late: deque[tuple[int, int, float]] = deque(maxlen=LATE)
        self._found: tuple[int, float | None] = -1, None  # as of which fit

    def add(self, rows: int, attended: int, seconds: float) -> None:
        """Count a step."""
        self._late.append((rows, attended, seconds))
        self._found = -1, None

    @property
    def seconds(self) -> float | None:
        """The median; None: no step was counted."""
        if not self._late:
            return None
        fit = self._step_time.num_fits
        if self._found[0] != fit:
            predict = self._step_time.predict
            found = median(seconds - predict(rows, at) for rows, at, seconds in self._late)
            self._found = self._step_time.num_fits, found
        return self._found[1]
