"""Masks of many rows at once, in a thread, while the next pass of the model is computed."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final
from weakref import finalize

import numpy as np

from kept.exiting import computing
from kept.grammar.constraint import Constraint, Words

if TYPE_CHECKING:
    import llguidance

log = logging.getLogger(__name__)

LEAST_SECONDS: Final = 100e-6  # of masks that are worth the way to another thread
_FIRST_GUESS: Final = 20e-6  # seconds that a mask takes
_RATE: Final = 0.1  # of what the last ones count for in that


class Job:
    """Masks that are being computed, of rows of one vocabulary and the same ends, which are not
    touched meanwhile."""

    def __init__(self, rows: Sequence[Constraint]) -> None:
        self.rows = rows
        self.words: Words = np.zeros((len(rows), rows[0].compiled.num_words), dtype=np.uint32)
        self.seconds = 0.0  # that it took; 0: it is not done, or has failed
        self.entered, self._done = threading.Lock(), threading.Lock()
        self.entered.acquire()
        self._done.acquire()
        self._at = {row: i for i, row in enumerate(rows)}
        self._pid = os.getpid()

    def compute(self, executor: llguidance.LLExecutor) -> None:
        """Compute them, in the thread for it."""
        began = time.perf_counter()
        try:
            pairs = [(row.matcher, i) for i, row in enumerate(self.rows)]
            count, size = self.words.shape
            address = self.words.ctypes.data
            self.entered.release()
            executor.unsafe_compute_mask_ptr(pairs, address, 4 * size, count)
            took = time.perf_counter() - began
            self.rows[0].ends_in(self.words)
            self.seconds = took
        except BaseException as error:  # a panic of Rust's is no Exception
            # Who asks for a mask computes it then, and raises what is wrong with it. The thread
            # goes on: without it, who starts the next job would wait for ever.
            log.warning("masks could not be computed ahead: %r", error)
        finally:
            self._done.release()

    @property
    def is_over(self) -> bool:
        """Whether it is done, or has failed."""
        return not self._done.locked()

    def words_of(self, row: Constraint) -> Words | None:
        """The mask of a row, once it is there; None: nobody has computed it, as after a fork."""
        if not self.seconds:
            if self._pid != os.getpid():
                return None
            with self._done:
                pass
        return self.words[self._at[row]] if self.seconds else None


class Ahead:
    """Has masks computed by a thread of its own, as soon as it is known what they follow."""

    def __init__(self) -> None:
        self._seconds = _FIRST_GUESS
        self._pid = -1
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._last: Job | None = None

    def start(self, rows: Sequence[Constraint]) -> None:
        """Begin with the masks of some rows. They are waited for where they are asked for; a few
        that take no time are computed only there."""
        waiting = [row for row in rows if not row.is_known]
        self._learn()
        if not waiting or len(waiting) * self._seconds < LEAST_SECONDS:
            return
        kinds: dict[tuple[object, ...], list[Constraint]] = {}
        for row in waiting:
            kinds.setdefault((row.compiled.num_words, row.ends), []).append(row)
        for alike in kinds.values():
            job = self._last = Job(alike)
            for row in alike:
                row.expect(job)
            self._queue().put(job)
            # This thread would otherwise keep the interpreter to itself for some milliseconds.
            job.entered.acquire()

    def _learn(self) -> None:
        last = self._last
        if last is not None and last.is_over:
            if last.seconds:
                self._seconds += _RATE * (last.seconds / len(last.rows) - self._seconds)
            self._last = None

    def _queue(self) -> SimpleQueue[Job | None]:
        if self._pid != os.getpid():  # a forked child has none of its parent's threads
            self._jobs, self._pid, self._last = SimpleQueue(), os.getpid(), None
            threading.Thread(
                target=_work, args=(self._jobs,), name="kept-masks", daemon=True
            ).start()
            finalize(self, self._jobs.put, None)
        return self._jobs


def _work(jobs: SimpleQueue[Job | None]) -> None:
    import llguidance

    executor = llguidance.LLExecutor(max(1, min(4, (os.cpu_count() or 1) // 4)))
    while (job := jobs.get()) is not None:
        with computing():
            job.compute(executor)
