"""Scores of formats of weights and of caches as tables and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kept import ops
from kept.bench.json_report import header
from kept.bench.quality import BITS, Quality, Score, WeightFormat
from kept.bench.subject import Subject
from kept.bench.tables import new_table
from kept.format import format_count
from kept.ops import find_kv_codec


@dataclass(frozen=True, slots=True)
class Setting:
    """What was measured on.

    subject: the model in fp32. text: in words. context: tokens a window reads at most. stored_bits:
    of a weight as the checkpoint is loaded by itself, where that is measured.
    """

    subject: Subject
    text: str
    context: int
    num_windows: int
    stored_bits: float | None = None

    def bits(self, format: WeightFormat) -> float | None:
        """Of a weight in a format."""
        return self.stored_bits if format == "stored" else BITS[format]


def quality_report(setting: Setting, found: Quality) -> RenderableType:
    """A table of the formats, and what it rests on."""
    return Group(*_parts(setting, found))


def _parts(setting: Setting, found: Quality) -> Iterator[RenderableType]:
    scored = found.scores["fp32"].num_tokens
    yield Text(
        f"{setting.subject.name}: {format_count(setting.subject.num_parameters)} parameters; "
        f"{scored:,} tokens of {setting.text}",
        style="bold",
    )
    if found.interrupted:
        yield Text(
            f"Interrupted: {found.num_windows:,} of {setting.num_windows:,} windows were scored.",
            style="yellow",
        )
    yield Text()
    yield _table(setting, found)
    if found.kv_scores:
        yield Text()
        yield _kv_table(setting, found)
    yield Text()
    yield Text(
        f"Read in windows of at most {setting.context:,} tokens. Bits a weight, scales included. "
        "Change: of the perplexity against fp32, with the standard error that so many tokens "
        "leave. KL: the divergence of the predictions from those of fp32, nats a token. Top-1: "
        "how often the most likely token is the same."
    )


def _table(setting: Setting, found: Quality) -> Table:
    columns = ("weights", "bits", "perplexity", "change (%)", "KL", "top-1 (%)")
    table = new_table("The same text in every format", *columns)
    for name, score in found.scores.items():
        last = ("-", "-", "-") if name == "fp32" else compared(score)
        bits = setting.bits(name)
        shown = "-" if bits is None else f"{bits:.3g}"
        table.add_row(name, shown, f"{score.perplexity:.3f}", *last)
    return table


def _kv_table(setting: Setting, found: Quality) -> Table:
    columns = ("cache", "bytes a token", "perplexity", "change (%)", "KL", "top-1 (%)")
    table = new_table("The same text over every cache, weights in fp32", *columns)
    for name, score in found.kv_scores.items():
        numbers = f"{_token_bytes(setting, name):,}", f"{score.perplexity:.3f}"
        table.add_row(name, *numbers, *compared(score))
    return table


def _token_bytes(setting: Setting, kv_dtype: str) -> int:
    codec = find_kv_codec(kv_dtype)
    return sum(shape.num_bytes(codec) for shape in setting.subject.model.kv_shapes)


def compared(score: Score) -> tuple[str, str, str]:
    """Change with its error, divergence and agreement, as a table shows them."""
    return (
        f"{100 * score.change:+.2f} ± {100 * score.change_error:.2f}",
        f"{score.mean_divergence:.5f}",
        f"{100 * score.agreement:.1f}",
    )


def quality_json(setting: Setting, found: Quality) -> dict[str, Any]:
    """A JSON-ready report. Losses in nats, changes as shares; `format` counts its layout."""
    return {
        "benchmark": "quality",
        "interrupted": found.interrupted,
        **header(setting.subject, torch.get_num_threads()),
        "backend": ops.backend(),
        "text": setting.text,
        "context": setting.context,
        "num_windows": setting.num_windows,
        "num_windows_scored": found.num_windows,
        "weights": {
            name: {"bits": setting.bits(name), **score_json(score)}
            for name, score in found.scores.items()
        },
        "kv_dtypes": {
            name: {"bytes_per_token": _token_bytes(setting, name), **score_json(score)}
            for name, score in found.kv_scores.items()
        },
    }


def score_json(score: Score) -> dict[str, float]:
    """A score as a JSON report has it."""
    return {
        "num_tokens": score.num_tokens,
        "nats": score.nats,
        "perplexity": score.perplexity,
        "change": score.change,
        "change_error": score.change_error,
        "divergence": score.mean_divergence,
        "agreement": score.agreement,
    }
