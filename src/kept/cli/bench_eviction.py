"""`kept bench quality --evict`: what caches that drop tokens cost in predictions and in recall."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kept.cli.bench_files import check_measured, deliver, write_json
from kept.cli.loading import bar

if TYPE_CHECKING:
    from kept.bench.subject import Subject
    from kept.bench.windows import Window

BUDGETS = "50,25,12.5"
_TEXTS = 64  # of each recall task


def read_budgets(text: str | None) -> list[float]:
    """Shares of the context, each once. Raises typer.BadParameter for what is no percentage."""
    try:
        found = [float(part) / 100 for part in (BUDGETS if text is None else text).split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < share < 1 for share in found):
        raise typer.BadParameter(
            f"{text!r} is no list of percentages above 0 and below 100, as {BUDGETS}",
            param_hint="--budgets",
        )
    return list(dict.fromkeys(found))


def evictions(
    subject: Subject,
    text: str,
    context: int,
    windows: Sequence[Window],
    shares: Sequence[float],
    json_file: Path | None,
) -> None:
    """Measure and report. Raises OptionError for a budget too small for a policy, and typer.Exit
    where Ctrl-C ended it."""
    from kept.bench.eviction import (
        POLICIES,
        Kept,
        load_recall_model,
        measure_evictions,
        measure_recall,
    )
    from kept.bench.eviction_report import EvictionSetting, eviction_json, eviction_report
    from kept.bench.recall_tasks import TASKS

    caches = [Kept(policy, share) for share in shares for policy in POLICIES]
    recall_model = load_recall_model()
    with bar("Scoring", unit="tokens") as update:
        found = measure_evictions(subject.model, windows, context, caches, update)
    if not found.interrupted:
        with bar("Asking", unit="texts") as update:
            measure_recall(found, recall_model, TASKS, caches, _TEXTS, update)
    check_measured(found.num_windows)
    setting = EvictionSetting(subject, text, context, len(windows), caches, TASKS, _TEXTS)
    targets = [(json_file, write_json(eviction_json(setting, found)))]
    deliver(eviction_report(setting, found), targets, interrupted=found.interrupted)
