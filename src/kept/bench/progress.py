"""How an experiment goes, on stderr: what it will take, a bar with the time left, each run."""

from __future__ import annotations

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


def make_bar(console: Console) -> Progress:
    """A bar with a field `left` for the time left, wiped away at the end."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


class BenchProgress:
    """A Watcher that writes to a console; a bar only where that is a terminal.

    The bar counts seconds rather than steps: a step without the cache takes longer the later it
    comes, and equal steps would promise an end that keeps moving away. What is left of either kind
    is what was expected of it, times how much longer than expected that kind has taken so far.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = make_bar(console)
        self._runs = 0
        self._task = self._bar.add_task("timing a few steps", total=None, left="")
        self._ahead: dict[bool, float] = {}  # expected seconds of what is still to do
        self._done: dict[bool, float] = {True: 0.0, False: 0.0}  # expected of what is done
        self._spent: dict[bool, float] = {True: 0.0, False: 0.0}  # and what that took

    def __enter__(self) -> BenchProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def estimated(self, found: Estimate, settings: Settings) -> None:
        """Say what the experiment will take, before it begins."""
        self._runs = settings.runs
        kinds = (True, False) if settings.without_cache else (True,)
        each = {kind: found.run_seconds(kind) for kind in kinds}
        self._ahead = {kind: settings.runs * seconds for kind, seconds in each.items()}
        total = sum(self._ahead.values())
        parts = ", ".join(f"{format_duration(each[kind])} {_NAMES[kind]}" for kind in kinds)
        runs = f"{settings.runs} runs" if settings.runs > 1 else "1 run"
        self._console.print(
            f"This will take about {format_duration(total)}: {runs} of {parts}. "
            "Ctrl-C ends it and reports what there is.",
            highlight=False,
        )
        self._bar.reset(
            self._task, total=total, description="measuring", left=f"{format_duration(total)} left"
        )

    def token_drawn(self, trace: Trace, seconds_expected: float) -> None:
        """Move the bar on."""
        kind = trace.use_cache
        self._ahead[kind] -= seconds_expected
        self._done[kind] += seconds_expected
        self._spent[kind] += trace.step_seconds[-1]
        spent, left = sum(self._spent.values()), self.seconds_left()
        note = f"{format_duration(left)} left"
        self._bar.update(self._task, completed=spent, total=spent + left, left=note)

    def seconds_left(self) -> float:
        """What the rest is likely to take, at the pace of each kind so far."""
        return sum(
            max(ahead, 0.0) * (self._spent[kind] / self._done[kind] if self._done[kind] else 1.0)
            for kind, ahead in self._ahead.items()
        )

    def run_done(self, trace: Trace, index: int) -> None:
        """Say what a run took."""
        self._console.print(
            f"{_NAMES[trace.use_cache]}, run {index + 1} of {self._runs}: {trace.seconds:.2f} s",
            highlight=False,
        )
