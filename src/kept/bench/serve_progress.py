"""How serving goes, on stderr: what is about to be served, and a bar of the requests answered."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from kept.bench.progress import Bar
from kept.bench.serve_record import Record
from kept.bench.serve_work import Arrival

_TITLES = {"capacity": "measuring the capacity", "serving": "serving"}
_APART = 0.1  # seconds between two movements of the bar


class ServeProgress(Bar):
    """A ServeWatcher that writes to a console; a bar only where that is a terminal."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, "warming up")
        self._moved = 0.0

    def began(self, what: str, plan: Sequence[Arrival]) -> None:
        """Say what is about to be served."""
        title, self._moved = _TITLES.get(what, what), 0.0
        if what in _TITLES:
            prompts = sum(arrival.prompt_tokens for arrival in plan)
            new = sum(arrival.new_tokens for arrival in plan)
            end = " Ctrl-C ends it and reports what there is." if what == "serving" else ""
            self.say(
                f"{title}: {len(plan):,} requests, {prompts:,} tokens of prompts and {new:,} to "
                f"draw.{end}"
            )
        self.begin(title, sum(arrival.new_tokens for arrival in plan))

    def stepped(self, record: Record) -> None:
        """Move the bar on, and say how much there is to do at the moment."""
        last = record.passes[-1]
        if last.at - self._moved < _APART:
            return
        self._moved = last.at
        drawn = sum(len(found.token_times) for found in record.served.values())
        load = record.moments[-1].load
        note = f"{load.running} running, {load.waiting} waiting, {drawn / last.at:,.0f} tokens/s"
        self.move(completed=drawn, left=note)
