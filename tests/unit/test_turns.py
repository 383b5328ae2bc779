"""A fork waits for every turn, also while another thread makes more of them."""

from __future__ import annotations

import copy
import sys
import threading
from collections import deque

from interrupting import interrupted

from kept import turns
from kept.turns import Turn


def is_free(turn: Turn) -> bool:
    """As another thread finds it."""
    found: list[bool] = []

    def look() -> None:
        found.append(turn.lock.acquire(blocking=False))
        if found[0]:
            turn.lock.release()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return found[0]


def test_every_turn_is_taken_before_a_fork_and_free_after_it() -> None:
    held = [Turn(), Turn()]
    turns._take_all()
    assert not any(map(is_free, held))
    turns._release_all()
    assert all(map(is_free, held))


def test_turns_may_be_made_and_dropped_while_all_are_taken() -> None:
    held = [Turn() for _ in range(3)]
    others = deque[Turn](maxlen=2)

    def between_lines(*event: object) -> object:  # where another thread may come in
        others.append(Turn())
        return between_lines

    before = sys.gettrace()
    sys.settrace(between_lines)
    try:
        turns._take_all()
    finally:
        sys.settrace(before)
    taken = set(map(id, turns._forking.taken))
    turns._release_all()
    assert others
    assert {id(turn) for turn in held} <= taken


def test_ctrl_c_finds_no_line_between_a_turn_and_its_block() -> None:
    turn = Turn()

    def take() -> None:
        with turn.lock:
            pass

    assert interrupted(take, None, "turns.py") == 0
    assert is_free(turn)


def test_a_copy_is_another_turn() -> None:
    turn = Turn()
    with turn.lock:
        assert is_free(copy.deepcopy(turn))
        assert not is_free(turn)
