"""Loading a model, with a bar for whoever waits at a terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.cli.options import STORE_KEY, ModelOptions
from kept.cli.streams import say
from kept.errors import OptionError
from kept.format import parse_bytes

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from kept.llm import LLM

Update = Callable[[int, int], None]

_PATIENCE = 0.5  # seconds without a bar


def load(options: ModelOptions, default_store: str | None = None, **more: Any) -> LLM:
    """Load the model. default_store: where prefixes are stored unless an option says so, None:
    nowhere. more: arguments of `LLM` beside those of the options. Raises CheckpointError and its
    kinds, or OptionError."""
    from kept.llm import LLM

    store = _store_of(options, default_store)

    label = "Packing" if options.quantize is None else "Quantizing"
    with bars(("Loading", "bytes"), (label, "weights")) as (loading, packing):
        return LLM(
            options.model,
            dtype=options.dtype,
            device=options.device,
            quantize=None if options.quantize is None else options.quantize.value,
            activations=options.activations.value,
            copy_weights=options.copy_weights,
            revision=options.revision,
            kv_memory=options.kv_memory,
            offload_folder=options.offload_folder,
            offload_memory=None
            if options.offload_memory is None
            else parse_bytes(options.offload_memory),
            prefix_store=store,
            store_bytes=None if store is None else options.store_bytes,
            store_key=None if store is None else os.environ.get(STORE_KEY) or None,
            draft_model=options.draft_model,
            progress=loading,
            packing=packing,
            **more,
        )


def _store_of(options: ModelOptions, default: str | None) -> str | None:
    """Where prefixes are stored, None: nowhere. A default that cannot be had costs a remark.

    Raises OptionError for --store-bytes without a store.
    """
    asked = options.prefix_store
    if asked is not None and asked != "off":
        return asked
    if asked is None and default is not None and os.environ.get("KEPT_OPS") != "reference":
        folder = Path(default).expanduser()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return default
        except OSError as error:
            say(f"prefixes are kept in memory alone: {folder}: {error.strerror}")
            return None
    if options.store_bytes is not None and default is None:
        raise OptionError("--store-bytes is of a --prefix-store; give both, or leave it out")
    return None


@contextmanager
def bar(label: str, unit: str) -> Iterator[Update | None]:
    """Yield what to call with (done, total), or None where stderr is no terminal.

    The bar appears on stderr after half a second and is wiped away at the end. unit: "bytes", or
    the name of what is counted.
    """
    with bars((label, unit)) as [update]:
        yield update


@contextmanager
def bars(*steps: tuple[str, str]) -> Iterator[list[Update | None]]:
    """As `bar`, for steps one after another, each with its label and unit.

    A step's bar is wiped away for good when the next one begins, also where it goes on beside it.
    """
    if not sys.stderr.isatty():
        yield [None] * len(steps)
        return
    shown: list[_LateBar] = []
    for label, unit in steps:
        shown.append(_LateBar(label, unit, shown[-1] if shown else None))
    try:
        yield [each.update for each in shown]
    finally:
        for each in shown:
            each.close()


class _LateBar:
    """before: the bar of the step before, which this one takes the place of."""

    def __init__(self, label: str, unit: str, before: _LateBar | None) -> None:
        self._label, self._unit, self._before = label, unit, before
        self._started = time.monotonic()
        self._bar: tuple[Progress, TaskID] | None = None
        self._over = False

    def update(self, done: int, total: int) -> None:
        if self._before is not None:
            self._before.close()
            self._before = None
        if self._over:
            return
        if self._bar is None:
            if time.monotonic() - self._started < _PATIENCE:
                return
            progress = _make_bar(self._unit)
            progress.start()
            self._bar = progress, progress.add_task(self._label, total=total)
        progress, task = self._bar
        progress.update(task, completed=done, total=total)

    def close(self) -> None:
        self._over = True
        if self._bar is not None:
            self._bar[0].stop()
            self._bar = None


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
