"""Moving a complete folder to its place: without loss, whenever the process or the machine stops.

A folder that is replaced changes places with the new one in a single step where the system can do
that (Linux, macOS), so that there is always one of the two. Elsewhere it is moved aside first: for
a moment there is none, and the next run that writes there puts it back (`claim.py`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

from kept.errors import OptionError
from kept.models.claim import OLD, discard, name_beside

_AT_CWD = -100 if sys.platform == "linux" else -2
_EXCHANGE = 2  # RENAME_EXCHANGE, and macOS's RENAME_SWAP
_FULL = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)


def move(new: Path, place: Path, replaceable: Callable[[Path], None] | None) -> None:
    """Move the folder `new`, which lies beside `place`, there.

    What is there and not an empty folder stays, and OptionError is raised, unless `replaceable` is
    given. It is called with the folder that has been moved aside, and raises for one that must
    stay, which is then moved back. Else that goes once the new one is on disk. Where this raises,
    `new` is gone and `place` as it was; only a signal between two steps can leave a folder beside
    it, which the next run removes. Raises OSError.
    """
    try:
        sync_tree(new)
        free = _move_to_free(new, place)
        if not free and replaceable is None:
            raise OptionError(
                f"{place} has been made by someone else meanwhile, so nothing was written there; "
                "name another folder"
            )
    except Exception:
        discard(new, place)
        raise
    if free or replaceable is None:
        sync(place.parent)
    else:
        _replace(new, place, replaceable)


def sync_tree(folder: Path) -> None:
    """Wait until every file of a folder, and the folder, is on disk. Raises OSError."""
    for path in folder.iterdir():
        sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk. Raises OSError."""
    if os.name != "posix" and path.is_dir():
        return  # a folder cannot be opened there
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _move_to_free(new: Path, place: Path) -> bool:
    """Whether there was nothing but an empty folder at most, and the new one is there now."""
    try:
        if os.name != "posix" and place.is_dir():
            place.rmdir()
        # The system refuses to move a folder over anything but an empty one.
        new.rename(place)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        return False
    return True


def _replace(new: Path, place: Path, replaceable: Callable[[Path], None]) -> None:
    try:
        swapped = exchange(new, place)
        aside = new if swapped else name_beside(place, OLD)
        if not swapped:
            _rename_both(new, place, aside)
    except Exception:
        discard(new, place)
        raise
    try:
        replaceable(aside)
        sync(place.parent)
    except BaseException:
        if swapped:
            exchange(new, place)
        else:
            place.rename(new)
            aside.rename(place)
        discard(new, place)
        raise
    discard(aside, place)


def _rename_both(new: Path, place: Path, aside: Path) -> None:
    try:
        place.rename(aside)
        new.rename(place)
    except BaseException:
        if not os.path.lexists(place):
            aside.rename(place)
        raise


def exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step; False where the system has no such step.

    Raises OSError where it has, and fails.
    """
    name = {"linux": "renameat2", "darwin": "renameatx_np"}.get(sys.platform)
    call = None if name is None else getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if call is None:
        return False
    call.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    if call(_AT_CWD, os.fsencode(one), _AT_CWD, os.fsencode(other), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):  # the kernel, or the file system
        return False
    raise OSError(code, os.strerror(code), str(other))
