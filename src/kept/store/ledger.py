"""How many bytes a directory may hold and does, as all processes that share it agree.

    prefixes/
      lock                    held while one of them reserves room or makes some
      bytes                   how many all files have, unfinished ones too
      1f0c9a7be0d2c4a1/       the files of one model, instruction set, codec, ...
        4f1d00c2a9b7-....kv
        6c1f....tmp           being written: as large as it will be, and locked by who writes it

Room is reserved before anything is written: under the lock a file is made of the size that it will
have, and counted. A process that is killed leaves its unfinished file, which nobody has locked any
more, and perhaps a count that is wrong by that file: whoever next starts, or makes room, counts
anew. So there is never more than the limit and one file.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

from kept.store.counters import StoreCounters
from kept.store.disk import Disk
from kept.store.names import SUFFIX, UNFINISHED

_LOCKS: Any = None
if os.name == "posix":
    import fcntl

    _LOCKS = fcntl

PATIENCE: Final = 2.0  # seconds that somebody waits for the lock
_PAUSE: Final = 0.002
_ABANDONED: Final = 600.0  # seconds after which an unfinished file is nobody's, without locks
MADE_FREE: Final = 0.05  # of the limit: room that is made at least, as making it reads all names


class BusyError(OSError):
    """The lock was not to be had in time."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file in the directory. time_ns: when it was last used."""

    path: Path
    size: int
    time_ns: int


class Ledger:
    """The room of a directory. limit: bytes. removed: called with each file that was made to go.

    Threads of one process take turns. Everything here raises OSError.
    """

    def __init__(
        self,
        folder: Path,
        limit: int,
        disk: Disk,
        counters: StoreCounters,
        removed: Callable[[Path], None] = lambda path: None,
    ) -> None:
        self.folder, self.limit = folder, limit
        self._disk, self._counters, self._removed = disk, counters, removed

    def new_file(self, folder: Path, size: int) -> tuple[Path, int]:
        """An unfinished file of so many bytes, reserved, and its open handle, which is locked for
        as long as it is open. Raises OSError (EFBIG) for one larger than the limit."""
        if size > self.limit:
            raise OSError(errno.EFBIG, f"a file of {size:,} bytes, and the limit is {self.limit:,}")
        with self._locked():
            total = self._read()
            if total is None or total + size > self.limit:
                total = self._make_room(size)
            path = folder / f"{token_hex(8)}{UNFINISHED}"
            self._disk.make_folder(folder)
            handle = self._disk.create(path)
            try:
                if _LOCKS is not None:
                    with suppress(OSError):  # a file system without locks
                        _LOCKS.flock(handle, _LOCKS.LOCK_EX | _LOCKS.LOCK_NB)
                self._disk.reserve(handle, size)
                self._write(total + size)
            except BaseException:
                self._disk.close(handle)
                with suppress(OSError):
                    self._disk.remove(path)
                raise
        return path, handle

    def remove(self, path: Path, size: int) -> None:
        """Remove a file, and have its room back."""
        with self._locked():
            try:
                self._disk.remove(path)
            except FileNotFoundError:
                return
            total = self._read()
            if total is not None:
                self._write(max(0, total - size))

    def count(self) -> int:
        """Count all files anew, clear away what killed processes have left unfinished, and make
        room where there are more than the limit. Returns the bytes that there are."""
        with self._locked():
            total = self._make_room(0)
            self._write(total)
            return total

    def files(self) -> Iterator[Found]:
        """All files that are whole."""
        for folder in self._folders():
            for name, of in self._disk.list(folder):
                if name.endswith(SUFFIX):
                    yield Found(folder / name, of.st_size, of.st_mtime_ns)

    def _make_room(self, size: int) -> int:
        """Remove what was used least recently, until so many bytes fit; how many are left."""
        found = list(self.files())
        total = sum(file.size for file in found) + self._clear_unfinished()
        if total + size <= self.limit:
            return total
        least = max(0, min(self.limit - size, int((1 - MADE_FREE) * self.limit)))
        for file in sorted(found, key=lambda file: file.time_ns):
            if total <= least:
                break
            with suppress(FileNotFoundError):
                self._disk.remove(file.path)
            total -= file.size
            self._counters.evicted_files += 1
            self._removed(file.path)
        return total

    def _clear_unfinished(self) -> int:
        """Remove what nobody writes any more; the bytes of what somebody does."""
        total = 0
        for folder in self._folders():
            for name, of in self._disk.list(folder):
                if name.endswith(UNFINISHED):
                    if self._is_abandoned(folder / name, of.st_mtime):
                        with suppress(FileNotFoundError):
                            self._disk.remove(folder / name)
                    else:
                        total += of.st_size
        return total

    def _is_abandoned(self, path: Path, changed: float) -> bool:
        if _LOCKS is None:
            return time.time() - changed > _ABANDONED
        try:
            handle = self._disk.open(path)
        except FileNotFoundError:
            return True
        try:
            _LOCKS.flock(handle, _LOCKS.LOCK_EX | _LOCKS.LOCK_NB)
            return True
        except BlockingIOError:
            return False
        except OSError:
            return time.time() - changed > _ABANDONED
        finally:
            self._disk.close(handle)

    def _folders(self) -> list[Path]:
        found = [
            self.folder / name
            for name, of in self._disk.list(self.folder)
            if of.st_mode & 0o040000 and not name.startswith(".")
        ]
        return sorted(found)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if _LOCKS is None:
            yield
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        handle = os.open(self.folder / "lock", flags, 0o600)
        try:
            give_up = time.monotonic() + PATIENCE
            while True:
                try:
                    _LOCKS.flock(handle, _LOCKS.LOCK_EX | _LOCKS.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > give_up:
                        raise BusyError(errno.EBUSY, f"{self.folder} is locked") from error
                    time.sleep(_PAUSE)
                except OSError:
                    break  # a file system without locks: each process keeps to the limit by itself
            yield
        finally:
            os.close(handle)

    def _read(self) -> int | None:
        """The bytes that were counted last; None: nobody has."""
        try:
            return int((self.folder / "bytes").read_text())
        except (OSError, ValueError):
            return None

    def _write(self, total: int) -> None:
        handle = os.open(self.folder / "bytes", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(handle, f"{total:020d}\n".encode(), 0)
        finally:
            os.close(handle)
