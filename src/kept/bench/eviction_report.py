"""What eviction costs as tables and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kept import ops
from kept.bench.eviction import Evictions, Kept
from kept.bench.json_report import header
from kept.bench.quality_report import compared, score_json
from kept.bench.recall_tasks import RecallTask
from kept.bench.subject import Subject
from kept.bench.tables import new_table
from kept.format import format_count


@dataclass(frozen=True, slots=True)
class EvictionSetting:
    """What was measured on.

    subject: the model in fp32. text: in words. context: tokens a window reads at most. caches: what
    was compared. num_texts: of each task.
    """

    subject: Subject
    text: str
    context: int
    num_windows: int
    caches: Sequence[Kept]
    tasks: Sequence[RecallTask]
    num_texts: int


def eviction_report(setting: EvictionSetting, found: Evictions) -> RenderableType:
    """A table of the text and one of the tasks, and what they rest on."""
    return Group(*_parts(setting, found))


def _parts(setting: EvictionSetting, found: Evictions) -> Iterator[RenderableType]:
    if found.interrupted:
        yield Text(
            f"Interrupted: {found.num_windows:,} of {setting.num_windows:,} windows were scored.",
            style="yellow",
        )
    if found.num_windows:
        scored = found.scores[None].num_tokens
        yield Text(
            f"{setting.subject.name}: {format_count(setting.subject.num_parameters)} parameters; "
            f"{scored:,} tokens of {setting.text}",
            style="bold",
        )
        yield Text()
        yield _text_table(found, setting.context)
        yield Text()
        yield Text(
            f"Tokens with at least {setting.context // 2:,} before them, in windows of at most "
            f"{setting.context:,}, of which a cache keeps the share. ppl: perplexity. Change: "
            "against the cache that keeps all, with the standard error that so many tokens leave. "
            "KL: the divergence of the predictions, nats a token. Top-1: how often the most likely "
            "token is the same."
        )
    if found.recall:
        yield Text()
        yield _recall_table(setting, found)
        yield Text()
        yield Text(
            "Questions answered right, by the small model of these tasks. "
            + " ".join(map(_described, setting.tasks))
        )


def _described(task: RecallTask) -> str:
    return (
        f"{task.name.capitalize()}: {task.num_pairs} pairs in {task.body} tokens, "
        f"{task.num_questions} questions."
    )


def _text_table(found: Evictions, context: int) -> Table:
    columns = ("policy", "keeps", "ppl", "change (%)", "KL", "top-1 %")
    table = new_table("The same text over every cache", *columns)
    for kept, score in found.scores.items():
        first = ("all", "100 %") if kept is None else (kept.policy, f"{100 * kept.share:g} %")
        last = ("-", "-", "-") if kept is None else compared(score)
        table.add_row(*first, f"{score.perplexity:.3f}", *last)
    return table


def _recall_table(setting: EvictionSetting, found: Evictions) -> Table:
    table = new_table("Right answers (%)", "policy", "keeps", *found.recall)
    for kept in (None, *setting.caches):
        first = ("all", "100 %") if kept is None else (kept.policy, f"{100 * kept.share:g} %")
        shares = (of_task[kept].share for of_task in found.recall.values())
        table.add_row(*first, *(f"{100 * share:.1f}" for share in shares))
    return table


def eviction_json(setting: EvictionSetting, found: Evictions) -> dict[str, Any]:
    """A JSON-ready report. Losses in nats, changes and recall as shares."""

    def named(kept: Kept | None) -> dict[str, Any]:
        if kept is None:
            return {"policy": None, "share": 1.0}
        return {"policy": kept.policy, "share": kept.share}

    scored = found.scores.items() if found.num_windows else ()
    return {
        "benchmark": "eviction",
        "interrupted": found.interrupted,
        **header(setting.subject, torch.get_num_threads()),
        "backend": ops.backend(),
        "text": setting.text,
        "context": setting.context,
        "num_windows": setting.num_windows,
        "num_windows_scored": found.num_windows,
        "perplexity": [{**named(kept), **score_json(score)} for kept, score in scored],
        "recall": [
            {
                "task": task.name,
                "num_pairs": task.num_pairs,
                "length": task.length,
                "caches": [
                    {**named(kept), "right": of.right, "asked": of.asked}
                    for kept, of in found.recall.get(task.name, {}).items()
                ],
            }
            for task in setting.tasks
        ],
    }
