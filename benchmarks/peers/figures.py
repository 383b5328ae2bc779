"""What the raw times of a contestant come to, by the same rule for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from rows import Row

Stamps = Sequence[Sequence[float]]  # [sequence][token]: seconds since the call began


def prefill_rate(row: Row, stamps: Stamps) -> float:
    """Prompt tokens per second, until every sequence had its first token."""
    return row.batch * row.prompt / max(times[0] for times in stamps)


def decode_rate(stamps: Stamps) -> float:
    """Tokens per second from when all had their first token until one had its last.

    In between every sequence is drawing. Some peers read the prompts of a batch one after another
    and let the first ones draw meanwhile; a rate over the whole run would mix the two.
    """
    begin = max(times[0] for times in stamps)
    end = min(times[-1] for times in stamps)
    drawn = sum(1 for times in stamps for moment in times if begin < moment <= end)
    if not drawn:
        raise ValueError("no moment in which all sequences were drawing; ask for more new tokens")
    return drawn / (end - begin)


def peer_rates(row: Row, runs: Sequence[Mapping[str, Any]]) -> list[float]:
    """Tokens per second of each run of a peer."""
    if row.is_prefill:
        return [prefill_rate(row, run["stamps"]) for run in runs]
    return [decode_rate(run["stamps"]) for run in runs]


def kept_rates(row: Row, report: Mapping[str, Any]) -> list[float]:
    """The same of what `kept bench decode --json` or `kept bench prefill --json` wrote."""
    runs = report["runs"]
    if row.is_prefill:
        return [row.batch * row.prompt / run["prompt_seconds"] for run in runs]
    return [sum(run["step_tokens"]) / sum(run["step_seconds"]) for run in runs]


def kept_share(row: Row, report: Mapping[str, Any]) -> float | None:
    """How much of its limit the best run reached, by the bandwidth or peak of the same minutes."""
    if row.is_prefill:
        peak = max((rate["best"] for rate in report["matrix_peak"]), default=None)
        if peak is None:
            return None
        [prompt] = report["prompts"]
        share: float = prompt["work"]["operations"] / min(prompt["seconds"]) / peak
        return share
    shares = [run["share"] for run in report["decode"]["runs"] if run["share"] is not None]
    return max(shares, default=None)


def best_and_median(rates: Sequence[float]) -> tuple[float, float]:
    """Of all runs, over all rounds."""
    return max(rates), median(rates)
