"""Loading a model, with a bar for whoever waits at a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kept.cli.options import ModelOptions

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from kept.llm import LLM

_PATIENCE = 0.5  # seconds without a bar


def load(options: ModelOptions) -> LLM:
    """Load the model. Raises CheckpointError and its kinds, or OptionError."""
    from kept.llm import LLM

    with bar("Loading", unit="bytes") as update:
        return LLM(
            options.model,
            dtype=options.dtype,
            device=options.device,
            revision=options.revision,
            progress=update,
        )


@contextmanager
def bar(label: str, unit: str) -> Iterator[Callable[[int, int], None] | None]:
    """Yield what to call with (done, total), or None where stderr is no terminal.

    The bar appears on stderr after half a second and is wiped away at the end. unit: "bytes", or
    the name of what is counted.
    """
    if not sys.stderr.isatty():
        yield None
        return
    shown = _LateBar(label, unit)
    try:
        yield shown.update
    finally:
        shown.close()


class _LateBar:
    def __init__(self, label: str, unit: str) -> None:
        self._label, self._unit = label, unit
        self._started = time.monotonic()
        self._bar: tuple[Progress, TaskID] | None = None

    def update(self, done: int, total: int) -> None:
        if self._bar is None:
            if time.monotonic() - self._started < _PATIENCE:
                return
            progress = _make_bar(self._unit)
            progress.start()
            self._bar = progress, progress.add_task(self._label, total=total)
        progress, task = self._bar
        progress.update(task, completed=done, total=total)

    def close(self) -> None:
        if self._bar is not None:
            self._bar[0].stop()


def _make_bar(unit: str) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    label, line = TextColumn("{task.description}"), BarColumn()
    console = Console(stderr=True)
    if unit == "bytes":
        return Progress(label, line, DownloadColumn(), console=console, transient=True)
    counted = (MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn())
    return Progress(label, line, *counted, console=console, transient=True)
