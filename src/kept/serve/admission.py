"""Who may wait: a request that could not start in time is told so before anything is done."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from kept.engine import Request
from kept.serve.refusal import Refusal

REMEMBERED: Final = 64  # texts that have ended, of which the rate is taken
LEAST_RETRY: Final = 1.0  # seconds


class Ticket:
    """A request's place among those that wait and run.

    num_texts: how many slots it takes. place: how many texts were to start before it when it came;
    0: it starts at once. wait: seconds it was expected to wait then.
    """

    def __init__(self, num_texts: int, place: int, wait: float) -> None:
        self.num_texts, self.place, self.wait = num_texts, place, wait
        self.requests: tuple[Request, ...] = ()
        self.has_begun = False  # told by what no engine runs, else found by `has_started`

    @property
    def has_started(self) -> bool:
        """Whether an engine, or whoever does it, has taken it in."""
        if not self.has_begun:
            self.has_begun = bool(self.requests) and all(
                request.group.results[0].usage.admitted is not None for request in self.requests
            )
        return self.has_begun


class Admission:
    """Takes requests in as long as each can be expected to start in time.

    max_wait: seconds. num_slots: texts that run side by side. The wait for place k is k times the
    mean time between the ends of texts, measured while others were waiting; before any was, that
    of all texts over the slots. num_texts: of all requests that have not ended.
    """

    def __init__(
        self, max_wait: float, num_slots: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_wait, self._num_slots, self._clock = max_wait, num_slots, clock
        self._open: dict[Ticket, float] = {}  # when each came
        self._ends: deque[float] = deque(maxlen=REMEMBERED)  # of texts, without a pause between
        self._times: deque[float] = deque(maxlen=REMEMBERED)  # seconds that a text took
        self.num_texts = 0
        self.rejected = 0

    def enter(self, num_texts: int) -> Ticket:
        """Take a request in, or raise as `check`."""
        place, wait = self.check(num_texts)
        ticket = Ticket(num_texts, place, wait)
        self._open[ticket] = self._clock()
        self.num_texts += num_texts
        return ticket

    def check(self, num_texts: int) -> tuple[int, float]:
        """How many texts were to start before a request, and the seconds it would wait; takes
        nothing in. Raises the Refusal (429) that says when to come again."""
        place, wait = self._reckon(num_texts)
        if wait > self._max_wait:
            self.rejected += 1
            again = max(math.ceil(wait - self._max_wait), LEAST_RETRY)
            raise Refusal(
                f"{place} texts are before this one, about {wait:.0f} s of work, and a request may "
                f"wait {self._max_wait:g} s (--max-queue-time); try again in {again:.0f} s",
                429,
                "rate_limit_exceeded",
                headers={"Retry-After": f"{again:.0f}"},
            )
        return place, wait

    @property
    def has_room(self) -> bool:
        """Whether `check` would take a request of one text in."""
        return self._reckon(1)[1] <= self._max_wait

    def leave(self, ticket: Ticket) -> None:
        """The request has ended, however; without effect a second time."""
        came = self._open.pop(ticket, None)
        if came is None:
            return
        self.num_texts -= ticket.num_texts
        if not ticket.has_started:
            return
        now = self._clock()
        self._times.append(now - came)
        if self.num_texts < self._num_slots and self.num_waiting == 0:
            self._ends.clear()  # what comes next is not held up by these
        else:
            self._ends.extend([now] * ticket.num_texts)

    @property
    def num_open(self) -> int:
        """Requests that have not ended."""
        return len(self._open)

    @property
    def num_waiting(self) -> int:
        """Requests that no engine has taken in yet."""
        return sum(not ticket.has_started for ticket in self._open)

    def _reckon(self, num_texts: int) -> tuple[int, float]:
        place = max(self.num_texts + num_texts - self._num_slots, 0)
        return place, place * self._interval() if place else 0.0

    def _interval(self) -> float:
        """Seconds from one start to the next while somebody waits."""
        if len(self._ends) > 1 and self._ends[-1] > self._ends[0]:
            return (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        if not self._times:
            return 0.0
        return sum(self._times) / len(self._times) / self._num_slots
