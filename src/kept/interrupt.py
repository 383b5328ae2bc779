"""What Ctrl-C does to the command line, from the interpreter's start to its end.

    importing, parsing    the process ends at once with code 130: nothing has begun, and an import
                          that is interrupted turns KeyboardInterrupt into whatever it likes
    in a command          KeyboardInterrupt, so that it can tidy up and keep its text; at once
                          while the command is still importing
    after it              nothing more: what was to be done is done

This imports nothing slow, as it has to be there before what is slow is imported.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

INTERRUPTED: Final = 130  # 128 + SIGINT, as a shell reports it


def guard() -> None:
    """End the process at Ctrl-C, from now on; where a shell had it ignored, it stays so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt at Ctrl-C in this block and do nothing after it, under a `guard`.

    Without one this changes nothing.
    """
    guarded = signal.getsignal(signal.SIGINT) is _end
    try:
        if guarded:
            signal.signal(signal.SIGINT, _raise)
        yield
    finally:
        if guarded:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end(signum: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


def _raise(signum: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os._exit(INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt
