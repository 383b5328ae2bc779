"""What runs when the interpreter ends is let finish, and nothing more begins.

Up to Python 3.13, a daemon thread that comes back from native code while the interpreter ends is
ended on the spot, by unwinding its stack. Where that meets C++, torch's or kept's own, the process
aborts. So the interpreter waits for steps that are being computed, and daemon threads that would
begin another stand still until the process is gone.
"""

from __future__ import annotations

import atexit
import os
import threading

# Taken by itself, never by `with` the condition: Ctrl-C within that would leave it taken.
_lock = threading.RLock()
_changed = threading.Condition(_lock)
_depths: dict[int, int] = {}  # of the threads that compute: how many `computing` deep
_exiting: int | None = None  # the thread that ends the interpreter, which may go on


class _Computing:
    """Takes no lock while nobody waits: it counts first, and looks who waits after that, where
    `_wait` does so the other way round."""

    def __enter__(self) -> None:
        me = threading.get_ident()
        depth = _depths.get(me, 0)
        _depths[me] = depth + 1
        if _exiting is not None and _exiting != me and not depth:
            del _depths[me]
            _stand_still()

    def __exit__(self, *_: object) -> None:
        me = threading.get_ident()
        if _depths[me] > 1:
            _depths[me] -= 1
            return
        del _depths[me]
        if _exiting is not None:
            with _lock:
                _changed.notify_all()


_computing = _Computing()


def computing() -> _Computing:
    """Hold off the interpreter's end for a while; may be nested. Not to be yielded out of."""
    return _computing


def _stand_still() -> None:
    with _lock:
        _changed.notify_all()
        _changed.wait_for(lambda: False)


def _wait() -> None:
    global _exiting
    with _lock:
        _exiting = threading.get_ident()
        _changed.wait_for(lambda: not _depths.keys() - {_exiting})


def _forget_after_fork() -> None:
    """A child has none of its parent's other threads."""
    global _lock, _changed, _exiting
    _lock = threading.RLock()
    _changed, _exiting = threading.Condition(_lock), None
    for thread in _depths.keys() - {threading.get_ident()}:
        del _depths[thread]


atexit.register(_wait)
os.register_at_fork(after_in_child=_forget_after_fork)
