"""Threads that wait for an engine's steps, and for those of another that has the room."""

from __future__ import annotations

import threading

import pytest

from kept import turns
from kept.engine import Engine, Event, Room, driving
from kept.engine.driving import Driving

from .test_room import engines
from .toy import Toy


def test_a_fork_waits_for_who_looks_whether_it_is_done() -> None:
    """Which a thread does with the lock: a child would find it taken for ever."""
    driven, found = Driving(Toy(), lambda: None), list[bool]()
    turns._take_all()
    try:
        other = threading.Thread(target=lambda: found.append(driven._turn.lock.acquire(False)))
        other.start()
        other.join()
    finally:
        turns._release_all()
    assert found == [False]
    assert driven._turn.lock.acquire(False)
    driven._turn.lock.release()


def test_two_that_wait_for_each_others_room_take_each_others_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where each saw the other run when it looked last."""
    one, other = engines(Toy(512), 4)
    both, met = threading.Barrier(2), set[int]()
    go_on = Room.have_go_on

    def together(room: Room, lender: Engine) -> None:
        if threading.get_ident() not in met:
            met.add(threading.get_ident())
            both.wait(60)
        go_on(room, lender)

    def step(engine: Engine) -> list[Event]:
        engine._waits_for = other if engine is one else one
        return []

    monkeypatch.setattr(Room, "have_go_on", together)
    monkeypatch.setattr(Engine, "_step", step)
    monkeypatch.setattr(driving, "PATIENCE", 60.0)
    threads = [
        threading.Thread(target=engine.advance, args=(lambda: False,), daemon=True)
        for engine in (one, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
