"""Measurements as JSON: every raw step time, and what it was measured on."""

from __future__ import annotations

import dataclasses
import platform
from datetime import UTC, datetime
from typing import Any

import torch

import kept
from kept.bench.experiment import Result
from kept.bench.published import PUBLISHED
from kept.bench.subject import Subject
from kept.bench.summary import Summary, Totals
from kept.bench.trace import Trace
from kept.format import dtype_name
from kept.machine import describe_machine

FORMAT = 1


def as_json(result: Result, summary: Summary) -> dict[str, Any]:
    """A JSON-ready report. Times in seconds, sizes in bytes; `format` counts its layout."""
    peak = result.limits.peak
    return {
        "benchmark": "cache",
        "interrupted": result.interrupted,
        **header(result.subject, result.num_threads),
        "settings": dataclasses.asdict(result.settings),
        "with_cache": _kind(result.of(True), summary.with_cache),
        "without_cache": _kind(result.of(False), summary.without_cache),
        "ratio": summary.ratio,
        "tokens_agreeing": summary.agreeing,
        "lengths": list(summary.lengths),
        "cache_bytes": list(summary.cache_bytes),
        "bandwidth": [dataclasses.asdict(rate) for rate in result.limits.bandwidths],
        "floor": None if summary.floor is None else dataclasses.asdict(summary.floor),
        "matrix_peak": None if peak is None else dataclasses.asdict(peak),
        "prefill": None if summary.prefill is None else dataclasses.asdict(summary.prefill),
        "unmeasured": result.limits.unmeasured,
        "published": [dataclasses.asdict(p) | {"ratio": p.ratio} for p in PUBLISHED],
    }


def header(subject: Subject, num_threads: int) -> dict[str, Any]:
    """What a report on a model says of when, by what and on what it was measured."""
    return {**origin(threads=num_threads), "model": _model(subject)}


def origin(**threads: int) -> dict[str, Any]:
    """When, by what and on what machine a report was measured; threads: by name."""
    return {
        "format": FORMAT,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "kept": kept.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "machine": dataclasses.asdict(describe_machine()) | threads,
    }


def _model(subject: Subject) -> dict[str, Any]:
    model = subject.model
    return {
        "name": subject.name,
        "random_weights": subject.random,
        "config": config_fields(model.config),
        "dtype": dtype_name(model.dtype),
        "quantize": subject.quantize,
        "kernels": subject.kernels,
        "device": str(model.device),
        "num_parameters": subject.num_parameters,
        "weight_bytes": subject.weight_bytes,
        "weight_bytes_per_step": subject.step_weight_bytes,
        "cache_bytes_per_token": subject.kv_bytes(1),
    }


def config_fields(config: Any) -> dict[str, Any]:
    """The fields of a family's config as JSON has them; sets, which it has not, become lists."""
    fields = dataclasses.asdict(config)  # all families' are dataclasses
    return {
        name: sorted(value) if isinstance(value, frozenset) else value
        for name, value in fields.items()
    }


def _kind(traces: list[Trace], totals: Totals | None) -> dict[str, Any] | None:
    if not traces:
        return None
    return {
        "totals": None if totals is None else dataclasses.asdict(totals),
        "runs": [
            {
                "complete": trace.complete,
                "seconds": trace.seconds,
                "step_seconds": [round(s, 9) for s in trace.step_seconds],
            }
            for trace in traces
        ],
    }
