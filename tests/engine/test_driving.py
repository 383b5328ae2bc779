"""Threads that wait for an engine's steps, where one of them forks."""

from __future__ import annotations

import threading

from kept import turns
from kept.engine.driving import Driving

from .toy import Toy


def test_a_fork_waits_for_who_looks_whether_it_is_done() -> None:
    """Which a thread does with the lock: a child would find it taken for ever."""
    driving, found = Driving(Toy(), lambda: None), list[bool]()
    turns._take_all()
    try:
        other = threading.Thread(target=lambda: found.append(driving._changed.acquire(False)))
        other.start()
        other.join()
    finally:
        turns._release_all()
    assert found == [False]
    assert driving._changed.acquire(False)
    driving._changed.release()
