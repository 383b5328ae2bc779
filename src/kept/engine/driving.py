"""Several threads that wait for one engine: one of them steps for all, the others sleep."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from kept.models import CausalLM
from kept.turns import Turn

PATIENCE: Final = 1.0  # seconds after which a sleeper looks for itself whether anybody steps


class Driving:
    """Takes the steps of one engine for whoever waits for them.

    Steps exclude each other by the model's turn. Who drives is only noted, so that the others need
    not queue up for it: where the note is wrong, as after a fork, somebody takes a turn too many.
    """

    def __init__(self, model: CausalLM, step: Callable[[], object]) -> None:
        self._model, self._step = model, step
        self._turn = Turn()  # which forks know for as long as it lives
        self._is_driven = False
        self._num_steps = 0
        # A lock that is taken for each. No Condition: Ctrl-C within that would leave its own taken.
        self._sleepers: list[threading.Lock] = []

    def advance(self, is_done: Callable[[], bool]) -> bool:
        """Return once a step has been taken or `is_done`; take the step where nobody else does.

        Returns whether this thread took it. Raises what the step raises, in that thread alone.
        """
        if self._is_taken_by_another(is_done):
            return False
        try:
            self._step()
        finally:
            with self._turn.lock:
                self._is_driven = False
                self._num_steps += 1
                while self._sleepers:
                    self._sleepers.pop().release()
        return True

    def _is_taken_by_another(self, is_done: Callable[[], bool]) -> bool:
        """Sleep while another thread takes a step; False: it is this one's turn."""
        with self._turn.lock:
            # A step of another engine may run within this one's model, and wait for nobody.
            if not self._is_driven or self._model.is_running_here:
                self._is_driven = True
                return False
            seen, sleeper = self._num_steps, threading.Lock()
            sleeper.acquire()
            self._sleepers.append(sleeper)
        sleeper.acquire(timeout=PATIENCE)
        with self._turn.lock:
            if self._num_steps != seen or is_done():
                return True
            self._is_driven = True
            return False
