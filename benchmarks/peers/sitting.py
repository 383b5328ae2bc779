"""A sitting: every row, its contestants in turn, round after round."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contestants import Found, Setting, measure
from rows import NAMES, Row

from kept.machine import describe_machine, measure_bandwidth

FORMAT = 1

Results = dict[str, Any]


def read_results(path: Path) -> Results:
    """Results of earlier sittings, to which rows are added; empty ones where there are none."""
    if not path.exists():
        return {"format": FORMAT, "rows": {}}
    found: Results = json.loads(path.read_text(encoding="utf-8"))
    if found.get("format") != FORMAT:
        raise SystemExit(
            f"{path} has format {found.get('format')!r}, and this script writes {FORMAT}; name "
            "another file"
        )
    return found


def write_results(results: Results, path: Path) -> None:
    """Replace the file at once, so that one cut short is never half of it."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def sit(
    row: Row,
    contestants: Sequence[str],
    rounds: int,
    setting: Setting,
    say: Callable[[str], None],
    keep: Callable[[Results], None],
) -> None:
    """Measure one row; `keep` is called with all of it so far after each measurement.

    The read bandwidth of memory is probed before every round and after the last, so that what else
    the machine did meanwhile can be seen.
    """
    result: Results = {
        "row": dataclasses.asdict(row) | {"title": row.title, "isa": setting.isa},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": dataclasses.asdict(describe_machine()) | {"python": platform.python_version()},
        "settings": {"rounds": rounds, "runs": setting.runs, "threads": setting.threads},
        "bandwidths": [],
        "contestants": {name: [] for name in contestants},
    }
    say(f"{row.name}: {row.title}" + ("" if setting.isa is None else f", held to {setting.isa}"))
    for index in range(rounds):
        result["bandwidths"].append(_bandwidth(say))
        for name in contestants:
            found = measure(name, row, setting)
            result["contestants"][name].append(found)
            say(f"  round {index + 1}, {NAMES[name]}: {_words(found)}")
            keep(result)
    result["bandwidths"].append(_bandwidth(say))
    keep(result)


def _bandwidth(say: Callable[[str], None]) -> dict[str, Any]:
    rate = measure_bandwidth()
    say(f"  read bandwidth {rate.best / 1e9:.1f} GB/s")
    return dataclasses.asdict(rate)


def _words(found: Found) -> str:
    if "error" in found:
        return f"failed: {found['error']}"
    return ", ".join(f"{rate:,.1f}" for rate in found["rates"]) + " tokens/s"
