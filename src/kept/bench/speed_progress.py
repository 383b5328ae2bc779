"""How a speed measurement goes, on stderr: what it will take, a bar, and each run."""

from __future__ import annotations

from rich.console import Console

from kept.bench.progress import Bar
from kept.bench.speed import SpeedTrace
from kept.format import format_duration, format_seconds


class SpeedProgress(Bar):
    """A SpeedWatcher that writes to a console; a bar only where that is a terminal."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, "warming up")
        self._spent = self._expected = 0.0
        self._traces = self._done = 0

    def expected(self, seconds: float, num_traces: int) -> None:
        """Say what the measurement will take, before it begins."""
        self._expected, self._traces = seconds, num_traces
        self.say(
            f"This will take about {format_duration(seconds)}. "
            "Ctrl-C ends it and reports what there is."
        )
        self.begin("measuring", seconds)

    def spent(self, seconds: float) -> None:
        """Move the bar on."""
        self._spent += seconds
        left = self.seconds_left()
        note = f"{format_duration(left)} left"
        self.move(completed=self._spent, total=self._spent + left, left=note)

    def seconds_left(self) -> float:
        """What the rest is likely to take: at first as expected, later at the pace so far."""
        if not self._done:
            return max(self._expected - self._spent, 0.0)
        return max(self._spent / self._done * self._traces - self._spent, 0.0)

    def run_done(self, trace: SpeedTrace, index: int) -> None:
        """Say what a run took."""
        self._done += 1
        parts = [f"prompt of {trace.prompt_tokens:,} in {format_seconds(trace.prompt_seconds)}"]
        if trace.steps:
            steps = sum(step.seconds for step in trace.steps)
            parts.append(f"{len(trace.steps):,} decode steps in {format_seconds(steps)}")
        self.say(f"run {index + 1}: {', '.join(parts)}")
