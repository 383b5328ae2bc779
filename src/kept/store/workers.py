"""Threads that do what may take long, or for ever."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

_Queue = SimpleQueue[Callable[[], object] | None]
_every: weakref.WeakSet[Workers] = weakref.WeakSet()


class Workers:
    """So many threads with one queue, each begun when there is something for it; they end with
    this object. A forked child has none of them, and begins anew with an empty queue."""

    def __init__(self, count: int, name: str) -> None:
        self._count, self._name = count, name
        self._begin()
        _every.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._queue: _Queue = SimpleQueue()
        self._since: list[float | None] = [None] * self._count  # of each thread, while it is busy
        self._num_threads = 0

    def submit(self, job: Callable[[], object]) -> None:
        """Have something done. What it raises is lost, so it is to see to that itself."""
        with self._lock:
            if self._num_threads < self._count:
                held = (self._queue, self._since, self._num_threads)  # and not their owner
                name = f"{self._name} {self._num_threads}"
                threading.Thread(target=_work, args=held, name=name, daemon=True).start()
                self._num_threads += 1
                weakref.finalize(self, self._queue.put, None).atexit = False
            self._queue.put(job)

    def busy_for(self) -> float:
        """For how many seconds all threads have been busy with what they do; 0.0: one is not."""
        since = list(self._since)
        now = time.monotonic()
        return min((0.0 if begun is None else now - begun for begun in since), default=0.0)


def _work(queue: _Queue, since: list[float | None], index: int) -> None:
    while True:
        job = queue.get()
        if job is None:
            return
        since[index] = time.monotonic()
        with suppress(Exception):
            job()
        since[index] = None
        del job  # which may hold what is to go


def _begin_anew() -> None:
    for workers in list(_every):
        workers._begin()


os.register_at_fork(after_in_child=_begin_anew)
