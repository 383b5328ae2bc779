"""A directory of prefixes that outlives the process.

    engine ── find, read ──> Section ── Index        which blocks there are, by names alone
                               ├─ Read, threads      files -> verified -> blocks of the pool
           ── put, end ────>   └─ Run, a thread      blocks -> a file, beside its place, moved there
    PrefixStore ── Ledger    room that is reserved; the one who makes some, under a lock
                └─ Disk      every call to the system

Nobody waits for the disk but who has asked for what it holds, and that for no longer than computing
it would take. What fails is counted, costs what it would have saved, and ends no request.
"""

from __future__ import annotations

import atexit
import errno
import logging
import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from kept.blocks import Namespace
from kept.errors import OptionError
from kept.format import format_bytes
from kept.machine import num_cores
from kept.store.buffers import Buffers
from kept.store.counters import StoreCounters
from kept.store.disk import Disk
from kept.store.ledger import BusyError, Ledger
from kept.store.seal import read_key, secret_of
from kept.store.section import Section
from kept.store.workers import Workers

log = logging.getLogger("kept")

MOST_WAITING: Final = 256 << 20  # bytes that may wait to be written
READ_PATIENCE: Final = 5.0  # seconds that a request waits for what it reads at most
HANGS: Final = 10.0  # seconds of one call to the system, from which on the disk is left alone
BREATH: Final = 0.0015  # seconds between two slices of a write
PAUSE: Final = 10.0  # seconds for which nothing is written after the disk was full
LAST: Final = 10.0  # seconds for which the end of the interpreter waits for what is to be written
_OPENING: Final = 5.0  # seconds in which a directory must be there
_FULL = (errno.ENOSPC, errno.EDQUOT)


class PrefixStore:
    """Blocks of texts in a directory, which processes may share. Threads may share it.

    folder: of the store; made where there is none. limit: bytes that all its files take at most.
    key: encrypts what this process writes, and opens nothing else.
    """

    def __init__(
        self,
        folder: Path,
        limit: int,
        *,
        key: bytes | str | None = None,
        disk: Disk | None = None,
    ) -> None:
        """Raises OptionError for a folder that cannot be had, and for no key."""
        self.folder, self.limit, self.key = folder, limit, read_key(key)
        self.name, self.disk, self.counters = "", disk or Disk(), StoreCounters()
        self._identity = "", "", ""
        self.ledger = Ledger(folder, limit, self.disk, self.counters, self._forget)
        self.readers = Workers(max(1, min(4, num_cores())), "kept store reader")
        self.writer = Workers(1, "kept store writer")
        self.buffers = Buffers()
        self._sections: dict[str, Section] = {}
        self._lock = threading.Lock()
        self._num_waiting = 0  # bytes
        self._seconds_a_byte: float | None = None
        self._not_before = 0.0
        self._is_stuck = self._is_closed = False
        self._num_hurrying = 0  # threads that wait for all to be written
        _stores.add(self)
        self._open()

    def _open(self) -> None:
        failed: list[OSError] = []
        there = threading.Event()

        def make() -> None:
            try:
                self.disk.make_folder(self.folder)
                if not os.access(self.folder, os.W_OK | os.X_OK):
                    raise PermissionError(errno.EACCES, "it cannot be written to")
            except OSError as error:
                failed.append(error)
            finally:
                there.set()

        self.writer.submit(make)
        if not there.wait(_OPENING):
            log.warning("%s does not answer; prefixes are kept in memory alone", self.folder)
        if failed:
            why = failed[0].strerror or failed[0]
            raise OptionError(
                f"prefix_store={str(self.folder)!r} cannot be used: {why}; name a folder that can "
                "be written to, or leave it out"
            )
        self.writer.submit(self._count)

    def identify(self, model: str, isa: str, kernels: str, name: str = "") -> None:
        """Say whose keys and values it is to hold, before any are. model, isa, kernels: see
        `Namespace`. name: what people call the model."""
        secret = secret_of(self.key)
        self._identity, self.name = (f"{model}+{secret}" if secret else model, isa, kernels), name

    def namespace(self, codec: str, windows: tuple[int | None, ...]) -> Namespace:
        """What the keys and values of an engine depend on."""
        return Namespace(*self._identity, codec, windows)

    def section(self, namespace: Namespace, block_bytes: int) -> Section:
        """The files of a namespace. block_bytes: of a block of all groups of layers."""
        root = namespace.root().hex()
        with self._lock:
            found = self._sections.get(root)
            if found is None:
                found = self._sections[root] = Section(self, namespace, block_bytes)
                if block_bytes > self.limit:
                    log.warning(
                        "store_bytes=%s hold no block of %s of this model and kv_dtype, so nothing "
                        "is stored; give more",
                        *(format_bytes(self.limit), format_bytes(block_bytes)),
                    )
            return found

    @property
    def is_hanging(self) -> bool:
        """Whether the disk does not answer."""
        return self.readers.busy_for() > HANGS

    def takes(self, num_bytes: int) -> bool:
        """Whether so many bytes more may wait to be written."""
        if self._is_closed:
            return False
        if self.writer.busy_for() > HANGS:
            if not self._is_stuck:
                self._is_stuck = True
                self.counters.faults["stuck"] += 1
                log.warning("%s takes no more: a write does not end", self.folder)
            return False
        self._is_stuck = False
        enough = self._num_waiting + num_bytes <= MOST_WAITING
        return enough and time.monotonic() >= self._not_before

    def note_waiting(self, num_bytes: int) -> None:
        """So many bytes more wait to be written."""
        with self._lock:
            self._num_waiting += num_bytes

    def note_speed(self, num_bytes: int, seconds: float) -> None:
        """A read of so many bytes has taken so long."""
        found, before = seconds / max(num_bytes, 1), self._seconds_a_byte
        self._seconds_a_byte = found if before is None else 0.5 * (before + found)

    def read_seconds(self, num_bytes: int) -> float | None:
        """How long reading so many bytes takes; None: nothing has been read yet."""
        return None if self._seconds_a_byte is None else num_bytes * self._seconds_a_byte

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Count what goes wrong with a write, and leave a full disk alone for a while."""
        try:
            yield
        except BusyError:
            self.counters.faults["busy"] += 1
        except OSError as error:
            is_full = error.errno in _FULL
            self.counters.faults["full" if is_full else "unwritable"] += 1
            self._not_before = time.monotonic() + PAUSE * is_full
        except Exception:  # counted here, as the thread that writes tells nobody
            self.counters.faults["unwritable"] += 1
            raise

    def flush(self, timeout: float = 60.0) -> bool:
        """Write all that waits; whether that was done in so many seconds."""
        for section in self._every():
            section.end_all()
        done = threading.Event()
        self.writer.submit(done.set)
        with self._lock:
            self._num_hurrying += 1
        try:
            return done.wait(timeout)
        finally:
            with self._lock:
                self._num_hurrying -= 1

    def close(self, timeout: float = 60.0) -> bool:
        """Write all that waits, and nothing from then on, as before the folder is removed; what is
        stored is still read. Whether that was done in so many seconds."""
        self._is_closed = True
        return self.flush(timeout)

    def pause(self) -> None:
        """Let others compute between two slices of a write, unless somebody waits for it or much
        is waiting: who writes without a break takes a processor away for a step's time."""
        if not self._num_hurrying and self._num_waiting < MOST_WAITING // 4:
            time.sleep(BREATH)

    def describe(self) -> str:
        """Where it is and what it has done, in a line."""
        found = self.counters
        return (
            f"{self.folder}: {found.read_blocks:,} blocks read, {found.written_blocks:,} written "
            f"in {found.written_files:,} files ({format_bytes(found.written_bytes)}), "
            f"{found.faults.total():,} faults"
        )

    def _count(self) -> None:
        with self.writing():
            self.ledger.count()

    def _forget(self, path: Path) -> None:
        for section in self._every():
            if section.folder == path.parent:
                section.forget(path.name)

    def _every(self) -> list[Section]:
        with self._lock:
            return list(self._sections.values())

    def _begin_anew(self) -> None:
        """In a forked child: nobody has locks, and what the parent was doing is the parent's."""
        self._lock, self._num_waiting, self._is_stuck = threading.Lock(), 0, False
        for section in self._sections.values():
            section.begin_anew()


def _at_exit() -> None:
    """Write what waits, as far as that takes no long time."""
    for store in list(_stores):
        if store._num_waiting:
            store.flush(LAST)


def _after_fork() -> None:
    for store in list(_stores):
        store._begin_anew()


_stores: weakref.WeakSet[PrefixStore] = weakref.WeakSet()
os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
