"""One run at a time writes a folder, and finds what killed runs have left beside it.

Beside OUT lie, while it is written and after a run that was killed:

    .OUT.lock             locked for as long as its run lives, whatever ends it
    .OUT.<16 hex>.tmp     a folder that is not complete, or no longer wanted
    .OUT.<16 hex>.old     the whole folder that was OUT: without an OUT it goes back there
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kept.errors import OptionError

_LOCKS: Any = None  # without them nothing tells a dead run from a live one
if os.name == "posix":
    import fcntl

    _LOCKS = fcntl

UNFINISHED, OLD = "tmp", "old"


def name_beside(place: Path, kind: str) -> Path:
    """A new name beside a folder, which tells a later run what lies there."""
    return place.with_name(f".{place.name}.{secrets.token_hex(8)}.{kind}")


@contextmanager
def claimed(place: Path) -> Iterator[None]:
    """Keep other runs off a folder, once what killed ones left beside it is cleared away.

    Where the system or file system has no locks, neither is done: who moves a folder there first
    has it, and leftovers stay. Raises OptionError while another run writes there, OSError.
    """
    lock = place.with_name(f".{place.name}.lock")
    handle = _lock(lock, place)
    try:
        if handle is not None:
            _clear(place)
        yield
    finally:
        if handle is not None:
            try:
                with suppress(OSError):  # still locked, so that nobody else's is removed
                    lock.unlink()
            finally:
                os.close(handle)


def _lock(lock: Path, place: Path) -> int | None:
    if _LOCKS is None:
        return None
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _LOCKS.flock(handle, _LOCKS.LOCK_EX | _LOCKS.LOCK_NB)
            # The run that had it may have removed the file before this one got it.
            if lock.exists() and os.path.samestat(os.fstat(handle), lock.stat()):
                return handle
            os.close(handle)
        except BlockingIOError as error:
            os.close(handle)
            raise OptionError(
                f"{place} is being written by another run of kept quantize; wait for it, or name "
                "another folder"
            ) from error
        except OSError:  # a file system without locks
            os.close(handle)
            lock.unlink(missing_ok=True)
            return None
        except BaseException:
            os.close(handle)
            raise


def _clear(place: Path) -> None:
    """Put back the folder that a killed run has moved away, and remove what it left."""
    pattern = re.compile(rf"\.{re.escape(place.name)}\.[0-9a-f]{{16}}\.({UNFINISHED}|{OLD})")
    found = [
        path
        for path in place.parent.iterdir()
        if pattern.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    ]
    whole = [path for path in found if path.suffix == f".{OLD}"]
    if whole and not os.path.lexists(place):
        newest = max(whole, key=lambda path: path.stat().st_mtime_ns)
        newest.rename(place)
        found.remove(newest)
    for path in found:
        discard(path, place)


def discard(path: Path, place: Path) -> None:
    """Remove a folder that lies beside `place`, as far as it can be removed.

    It gets the name of an unfinished one first: what is half removed is not to be put back.
    """
    if path.suffix == f".{OLD}":
        with suppress(OSError):
            path = path.rename(name_beside(place, UNFINISHED))
    shutil.rmtree(path, ignore_errors=True)
