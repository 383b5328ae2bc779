"""Locks for what threads share, which a fork leaves free.

A forked child has one thread. A lock that another thread held would stay locked there for ever,
over what that thread had half done. So a fork waits until every turn is over.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import wraps
from itertools import count
from traceback import clear_frames
from typing import ParamSpec, TypeVar
from weakref import WeakValueDictionary

P = ParamSpec("P")
T = TypeVar("T")

_numbers = count()
_forking = threading.local()


class Turn:
    """A turn that the thread that has it may take again. A copy is another turn.

    lock: to be used with `with`. Ctrl-C ends the wait for it. It has no `with` of its own: Ctrl-C
    between two lines of that would leave the lock taken, and every other thread waiting.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._noted: int | None = None
        _turns[next(_numbers)] = self

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread has it."""
        owned: bool = self.lock._is_owned()  # type: ignore[attr-defined]
        return owned

    def note(self) -> None:
        """Note that the calling thread has it, for `is_noted_elsewhere`."""
        self._noted = threading.get_ident()

    def note_end(self) -> None:
        """Note that it has it no more. An exception may come before; the next note makes up."""
        self._noted = None

    @property
    def is_noted_elsewhere(self) -> bool:
        """Whether another thread has it, as it was noted: asking the lock would be to wait."""
        return self._noted not in (None, threading.get_ident())

    def __reduce__(self) -> tuple[type[Turn], tuple[()]]:
        return Turn, ()


_turns: WeakValueDictionary[int, Turn] = WeakValueDictionary()


def lets_go(act: Callable[P, T]) -> Callable[P, T]:
    """Have what takes turns end them where Ctrl-C ends it, whoever keeps the exception.

    Between two lines of a `with` Ctrl-C leaves a context manager as it stands, with what it has
    taken. It lets go as it is freed, and the exception's frames would hold it until then.
    """

    @wraps(act)
    def acting(*args: P.args, **keywords: P.kwargs) -> T:
        try:
            return act(*args, **keywords)
        except BaseException as error:
            if not isinstance(error, Exception):
                clear_frames(error.__traceback__)
            raise

    return acting


def _take_all() -> None:
    _forking.taken = []
    # `valuerefs` lists them in one stroke: other threads may be making some. They come in one
    # order, so that two threads that fork do not wait for each other.
    for turn in [found for ref in _turns.valuerefs() if (found := ref()) is not None]:
        turn.lock.acquire()
        _forking.taken.append(turn)


def _release_all() -> None:
    while _forking.taken:
        _forking.taken.pop().lock.release()


os.register_at_fork(before=_take_all, after_in_parent=_release_all, after_in_child=_release_all)
