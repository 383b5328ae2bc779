"""How a measurement of kernels goes, on stderr: what is being measured, and a bar."""

from __future__ import annotations

from rich.console import Console

from kept.bench.progress import Bar
from kept.format import format_duration


class KernelProgress(Bar):
    """A KernelWatcher that writes to a console; a bar only where that is a terminal."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, "probing the machine")
        self._total = self._done = self._spent = 0.0

    def expected(self, seconds: float) -> None:
        """Say what the measurement will take at the least, before it begins."""
        self._total = seconds
        self.say(
            f"At the machine's limits this would take {format_duration(seconds)}, and filling the "
            "memory comes on top. Ctrl-C ends it and reports what there is."
        )
        self.begin("measuring", seconds or None)

    def preparing(self, what: str) -> None:
        """Say what comes next."""
        if not self._console.is_terminal:
            self.say(what)
        self.move(description=what)

    def spent(self, seconds: float, expected: float) -> None:
        """Move the bar on."""
        self._spent += seconds
        self._done += expected
        note = f"{format_duration(self.seconds_left())} left"
        self.move(completed=self._done, left=note)

    def seconds_left(self) -> float:
        """What the rest is likely to take, at the pace so far."""
        pace = self._spent / self._done if self._done else 1.0
        return max(self._total - self._done, 0.0) * pace
