"""A server of requests that computes nothing, on a clock that only it moves."""

from __future__ import annotations

from collections.abc import Sequence

from kept.bench.serve_record import Drawn, Ended, Given, Load
from kept.bench.serve_work import Arrival
from kept.errors import CacheFullError


class SimulatedClock:
    """Moved by who sleeps or computes."""

    def __init__(self) -> None:
        self.seconds = 100.0  # from anywhere

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.seconds += seconds


class SimulatedServer:
    """First come, first served; one chunk of a prompt, or a token of everybody, at a step.

    A step takes 10 ms and 0.1 ms a row. The token drawn n-th for request i is 1000 * i + n. A
    prompt of more than `longest` tokens is refused.
    """

    num_blocks = 100

    def __init__(
        self, clock: SimulatedClock, slots: int = 4, chunk: int = 128, longest: int = 10_000
    ) -> None:
        self._clock, self._slots, self._chunk, self._longest = clock, slots, chunk, longest
        self.prompts: dict[int, list[int]] = {}
        self.submitted: dict[int, float] = {}
        self._waiting: list[int] = []
        self._running: list[int] = []
        self._unread: dict[int, int] = {}
        self._to_draw: dict[int, int] = {}
        self._drawn: dict[int, int] = {}
        self._admitted: dict[int, float] = {}

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running)

    def submit(self, index: int, arrival: Arrival, prompt: Sequence[int]) -> None:
        if len(prompt) > self._longest:
            raise CacheFullError(f"a prompt of {len(prompt)} tokens is too long")
        self.prompts[index], self.submitted[index] = list(prompt), self._clock.seconds
        self._unread[index], self._to_draw[index] = len(prompt), arrival.new_tokens
        self._drawn[index] = 0
        self._waiting.append(index)

    def step(self) -> list[Drawn | Ended]:
        while self._waiting and len(self._running) < self._slots:
            index = self._waiting.pop(0)
            self._admitted[index] = self._clock.seconds
            self._running.append(index)
        decoding = [index for index in self._running if not self._unread[index]]
        reading = next((index for index in self._running if self._unread[index]), None)
        rows = len(decoding)
        if reading is not None:
            read = min(self._chunk, self._unread[reading])
            self._unread[reading] -= read
            rows += read
            if not self._unread[reading]:
                decoding.append(reading)
        self._clock.seconds += 0.01 + 1e-4 * rows
        return [event for index in decoding for event in self._draw(index)]

    def _draw(self, index: int) -> list[Drawn | Ended]:
        number = self._drawn[index]
        self._drawn[index] += 1
        events: list[Drawn | Ended] = [Drawn(index, 1000 * index + number)]
        if self._drawn[index] == self._to_draw[index]:
            self._running.remove(index)
            events.append(Ended(index))
        return events

    def given(self, index: int) -> Given:
        queue = self._admitted[index] - self.submitted[index]
        computed = len(self.prompts[index]) - self._unread[index] + self._drawn[index]
        return Given(queue, {"tree": 1}, "new", computed, index % 2)

    def load(self) -> Load:
        used = sum(len(self.prompts[i]) + self._drawn[i] for i in self._running) // 64
        return Load(len(self._running), len(self._waiting), used, 3 * len(self._drawn) // 4)

    def clear(self) -> None:
        self._waiting.clear()
        self._running.clear()
