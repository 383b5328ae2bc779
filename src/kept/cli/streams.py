"""Standard streams that somebody has closed, and ends of a process that has nowhere to write."""

from __future__ import annotations

import errno
import os
import sys
from typing import TextIO

import typer

# Of a disk, a quota, a file, a device, and of a stream that was closed.
_CANNOT_BE_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


def open_closed() -> None:
    """Put something in place of standard streams that are closed (>&-).

    Else the next file that is opened, a model's weights say, would have the number of a stream, and
    be written to by whoever writes there. Writing to a closed stdout still fails; what goes to a
    closed stderr is dropped, as there is nobody to tell. A closed stdin stays None.
    """
    for descriptor, mode in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)  # takes the lowest number that is free, which is this one
    if sys.stdout is None:
        sys.stdout = _stream(1)
    if sys.stderr is None:
        sys.stderr = _stream(2)


def _stream(descriptor: int) -> TextIO:
    return open(descriptor, "w", encoding="utf-8", errors="replace", closefd=False)


def why_not_written(error: BaseException) -> str | None:
    """Say why output could not be written, if that is what an error is about."""
    if not isinstance(error, OSError) or error.errno not in _CANNOT_BE_WRITTEN:
        return None
    if error.errno == errno.EBADF:
        return (
            "the output cannot be written: stdout is closed; leave it open, or send it to /dev/null"
        )
    return f"the output cannot be written: {error.strerror}; make room, or write elsewhere"


def say(message: str) -> None:
    """Write a line to stderr, if it can be written to."""
    try:
        typer.echo(f"kept: {message}", err=True)
    except OSError:
        _drop(2)


def drop_output() -> None:
    """Send what is still buffered nowhere: the interpreter would fail on it again at its end."""
    _drop(1, 2)


def _drop(*descriptors: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in descriptors:
        os.dup2(nowhere, descriptor)
