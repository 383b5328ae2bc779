"""What other threads want done with an engine between two of its steps.

Whoever waits for the model's turn beside a thread that takes one step after another may wait for
ever: a lock goes to whoever is running when it is free. So they leave word, and whoever steps sees
to it when its step is done.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeVar

Found = TypeVar("Found")

LOOK: Final = 0.02  # seconds after which who has left word looks whether anybody still steps
MOST_LOOKS: Final = 500  # after which it takes its turn with the others: nobody sees to it


class _Errand:
    """Something to be done, and what came of it."""

    def __init__(self, do: Callable[[], Any]) -> None:
        self._do = do
        self._sleeper = threading.Lock()
        self._sleeper.acquire()
        self.is_done = False
        self.found: Any = None
        self.error: Exception | None = None

    def run(self) -> None:
        if self.is_done:
            return
        try:
            self.found = self._do()
        except Exception as error:  # it is of who asked, not of who steps
            self.error = error
        self.is_done = True
        self._sleeper.release()

    def wait(self, seconds: float) -> None:
        self._sleeper.acquire(timeout=seconds)


class Errands:
    """Those that wait. Any thread may leave one; `see_to` is for who has the model's turn."""

    def __init__(self) -> None:
        self._waiting: deque[_Errand] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def see_to(self) -> None:
        """Do all that wait."""
        while self._waiting:
            self._waiting[0].run()
            self._waiting.popleft()  # at last: an exception before has it done again

    def do(
        self,
        do: Callable[[], Found],
        is_running_elsewhere: Callable[[], bool],
        take_turn: Callable[[Callable[[], object]], object],
    ) -> Found:
        """What `do` returns or raises, done in the model's turn by whoever has it next.

        is_running_elsewhere: whether another thread has it. take_turn: calls something in it.
        """
        errand, num_looks = _Errand(do), 0
        self._waiting.append(errand)
        while not errand.is_done:
            num_looks += 1
            if is_running_elsewhere() and num_looks < MOST_LOOKS:
                errand.wait(LOOK)
            else:
                take_turn(self.see_to)
        if errand.error is not None:
            raise errand.error
        found: Found = errand.found
        return found
