"""How an experiment goes, on stderr: what it will take, a bar with the time left, each run."""

from __future__ import annotations

from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from kept.bench.estimate import Estimate
from kept.bench.experiment import Settings
from kept.bench.trace import Trace
from kept.format import format_duration

_NAMES = {True: "with cache", False: "without cache"}


class Bar:
    """Lines on a console and, only where that is a terminal, a bar under them while this is
    entered, with what is `left` beside it."""

    def __init__(self, console: Console, first: str) -> None:
        """first: what comes first."""
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(first, total=None, left="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, words: str) -> None:
        """Write a line."""
        self._console.print(words, highlight=False)

    def begin(self, what: str, total: float | None, left: str = "") -> None:
        """Start the bar anew."""
        self._bar.reset(self._task, total=total, description=what, left=left)

    def move(self, **to: Any) -> None:
        """Move the bar; to: `completed`, `total`, `description` or `left`."""
        self._bar.update(self._task, **to)


class BenchProgress(Bar):
    """A Watcher that writes to a console; a bar only where that is a terminal.

    The bar counts seconds rather than steps: a step without the cache takes longer the later it
    comes, and equal steps would promise an end that keeps moving away. What is left of either kind
    is what was expected of it, times how much longer than expected that kind has taken so far.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console, "timing a few steps")
        self._runs = 0
        self._ahead: dict[bool, float] = {}  # expected seconds of what is still to do
        self._done: dict[bool, float] = {True: 0.0, False: 0.0}  # expected of what is done
        self._spent: dict[bool, float] = {True: 0.0, False: 0.0}  # and what that took

    def estimated(self, found: Estimate, settings: Settings) -> None:
        """Say what the experiment will take, before it begins."""
        self._runs = settings.runs
        kinds = (True, False) if settings.without_cache else (True,)
        each = {kind: found.run_seconds(kind) for kind in kinds}
        self._ahead = {kind: settings.runs * seconds for kind, seconds in each.items()}
        total = sum(self._ahead.values())
        parts = ", ".join(f"{format_duration(each[kind])} {_NAMES[kind]}" for kind in kinds)
        runs = f"{settings.runs} runs" if settings.runs > 1 else "1 run"
        self.say(
            f"This will take about {format_duration(total)}: {runs} of {parts}. "
            "Ctrl-C ends it and reports what there is."
        )
        self.begin("measuring", total, f"{format_duration(total)} left")

    def token_drawn(self, trace: Trace, seconds_expected: float) -> None:
        """Move the bar on."""
        kind = trace.use_cache
        self._ahead[kind] -= seconds_expected
        self._done[kind] += seconds_expected
        self._spent[kind] += trace.step_seconds[-1]
        spent, left = sum(self._spent.values()), self.seconds_left()
        self.move(completed=spent, total=spent + left, left=f"{format_duration(left)} left")

    def seconds_left(self) -> float:
        """What the rest is likely to take, at the pace of each kind so far."""
        return sum(
            max(ahead, 0.0) * (self._spent[kind] / self._done[kind] if self._done[kind] else 1.0)
            for kind, ahead in self._ahead.items()
        )

    def run_done(self, trace: Trace, index: int) -> None:
        """Say what a run took."""
        self.say(
            f"{_NAMES[trace.use_cache]}, run {index + 1} of {self._runs}: {trace.seconds:.2f} s"
        )
