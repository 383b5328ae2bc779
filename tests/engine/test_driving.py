"""Threads that wait for an engine's steps, and for those of another that has the room."""

from __future__ import annotations

import threading

import pytest

from kept import turns
from kept.engine import Engine, Room, driving
from kept.engine.driving import Driving

from .test_room import engines
from .toy import Toy


def test_a_fork_waits_for_who_looks_whether_it_is_done() -> None:
    """Which a thread does with the lock: a child would find it taken for ever."""
    driven, found = Driving(Toy(), lambda: None), list[bool]()
    turns._take_all()
    try:
        other = threading.Thread(target=lambda: found.append(driven._changed.acquire(False)))
        other.start()
        other.join()
    finally:
        turns._release_all()
    assert found == [False]
    assert driven._changed.acquire(False)
    driven._changed.release()


def test_two_that_wait_for_each_others_room_take_each_others_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where each saw the other run when it looked last."""
    one, other = engines(Toy(512), 4)
    both, taken = threading.Barrier(2), list[Engine]()
    waits = Room.wait

    def together(room: Room, asker: Engine) -> None:
        if taken.count(asker) == 1:
            both.wait(60)
        waits(room, asker)

    monkeypatch.setattr(Room, "wait", together)
    monkeypatch.setattr(Room, "others_first", lambda _, asker: [other if asker is one else one])
    monkeypatch.setattr(Engine, "_step", lambda engine: taken.append(engine) or [])
    monkeypatch.setattr(driving, "PATIENCE", 60.0)
    one._waits = other._waits = True
    threads = [
        threading.Thread(target=engine.advance, args=(lambda: False,), daemon=True)
        for engine in (one, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
