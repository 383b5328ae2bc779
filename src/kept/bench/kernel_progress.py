"""How a measurement of kernels goes, on stderr: what is being measured, and a bar."""

from __future__ import annotations

from rich.console import Console

from kept.bench.progress import make_bar
from kept.format import format_duration


class KernelProgress:
    """A KernelWatcher that writes to a console; a bar only where that is a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = make_bar(console)
        self._task = self._bar.add_task("probing the machine", total=None, left="")
        self._total = self._done = self._spent = 0.0

    def __enter__(self) -> KernelProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def expected(self, seconds: float) -> None:
        """Say what the measurement will take at the least, before it begins."""
        self._total = seconds
        self._console.print(
            f"At the machine's limits this would take {format_duration(seconds)}, and filling the "
            "memory comes on top. Ctrl-C ends it and reports what there is.",
            highlight=False,
        )
        self._bar.reset(self._task, total=seconds or None, description="measuring", left="")

    def preparing(self, what: str) -> None:
        """Say what comes next."""
        if self._bar.disable:
            self._console.print(what, highlight=False)
        self._bar.update(self._task, description=what)

    def spent(self, seconds: float, expected: float) -> None:
        """Move the bar on."""
        self._spent += seconds
        self._done += expected
        note = f"{format_duration(self.seconds_left())} left"
        self._bar.update(self._task, completed=self._done, left=note)

    def seconds_left(self) -> float:
        """What the rest is likely to take, at the pace so far."""
        pace = self._spent / self._done if self._done else 1.0
        return max(self._total - self._done, 0.0) * pace
