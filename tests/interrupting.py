"""Ctrl-C at a line of one's choice."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import kept

SOURCES = Path(kept.__file__).parent


def interrupted(act: Callable[[], object], at: int | None, *folders: str) -> int:
    """Call `act` and raise KeyboardInterrupt before the `at`-th line that it runs in these folders
    of kept, None: nowhere. Returns how many it ran; what `act` raises comes out."""
    roots = tuple(str(SOURCES / folder) for folder in folders)
    count = 0

    def line(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        if event == "line":
            count += 1
            if count == at:
                raise KeyboardInterrupt
        return line

    def call(frame: FrameType, event: str, argument: Any) -> Any:
        # Python drops what is raised in __del__, whoever raises it.
        ours = frame.f_code.co_filename.startswith(roots) and frame.f_code.co_name != "__del__"
        return line if ours else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        act()
    finally:
        sys.settrace(before)
    return count


def some_of(count: int, most: int, seed: object) -> list[int]:
    """At most so many of the numbers from 1 to `count`, in order."""
    everyone = range(1, count + 1)
    return sorted(Random(str(seed)).sample(everyone, min(most, count)))
