"""Who is taken in, by a clock of the test's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kept.serve.admission import Admission, Ticket
from kept.serve.refusal import Refusal


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def started(ticket: Ticket) -> Ticket:
    usage = SimpleNamespace(admitted=1.0)
    request: Any = SimpleNamespace(group=SimpleNamespace(results=[SimpleNamespace(usage=usage)]))
    ticket.requests = (request,)
    return ticket


def test_slots_are_taken_without_waiting() -> None:
    admission = Admission(5.0, 4, Clock())
    assert [admission.enter(n).place for n in (1, 2, 1)] == [0, 0, 0]
    assert admission.enter(1).place == 1  # nothing is known of how long, so it may wait
    assert (admission.num_open, admission.num_texts, admission.num_waiting) == (4, 5, 4)


def test_a_wait_is_the_pace_at_which_texts_end() -> None:
    clock = Clock()
    admission = Admission(5.0, 2, clock)
    tickets = [started(admission.enter(1)) for _ in range(2)]
    tickets += [admission.enter(1) for _ in range(8)]
    for i in range(5):  # one ends every two seconds, and the next begins
        clock.now += 2.0
        admission.leave(tickets[i])
        started(tickets[i + 2])
    assert admission.num_texts == 5
    ticket = None
    with pytest.raises(Refusal) as refused:
        ticket = admission.enter(1)  # fourth in line, at two seconds each
    assert ticket is None
    assert refused.value.status == 429
    assert refused.value.headers == {"Retry-After": "3"}
    assert admission.rejected == 1
    for ticket in tickets[5:8]:
        clock.now += 2.0
        started(ticket)
        admission.leave(ticket)
    taken = admission.enter(1)
    assert (taken.place, taken.wait) == (1, pytest.approx(2.0))


def test_leaving_twice_counts_once_and_what_never_ran_tells_nothing() -> None:
    clock = Clock()
    admission = Admission(0.0, 1, clock)
    first = started(admission.enter(1))
    waiting = admission.enter(1)  # nothing is known yet
    admission.leave(waiting)
    clock.now = 3.0
    admission.leave(first)
    admission.leave(first)
    assert admission.num_open == 0
    first = started(admission.enter(1))
    with pytest.raises(Refusal, match="about 3 s"):
        admission.enter(1)
