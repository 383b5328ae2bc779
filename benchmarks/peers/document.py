"""The section of a Markdown page that results are written into, between two comments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from figures import best_and_median
from rows import NAMES

BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"
LONGEST_REASON = 160

Results = Mapping[str, Any]


def update(page: Path, results: Results) -> None:
    """Replace what stands between the two comments. Raises SystemExit where they are missing."""
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise SystemExit(f"{page} needs one line {BEGIN} and below it one line {END}")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    section = "\n".join(markdown(results))
    page.write_text(f"{before}{BEGIN}\n\n{section}\n{END}{after}", encoding="utf-8")


def markdown(results: Results) -> Iterator[str]:
    """A table for each row, under what it was measured on."""
    for row in results["rows"].values():
        yield from _row(row)


def _row(row: Results) -> Iterator[str]:
    prefill = row["row"]["new"] == 1
    isa = row["row"].get("isa")
    yield f"### {row['row']['title']}{'' if isa is None else f', held to {isa}'}"
    yield ""
    yield _where(row)
    yield ""
    yield "| | tokens/s, best run | median run | ratio to the best peer | of the limit |"
    yield "|---|---|---|---|---|"
    rates = {
        name: [rate for found in rounds for rate in found.get("rates", ())]
        for name, rounds in row["contestants"].items()
    }
    best_peer = max(
        (max(found) for name, found in rates.items() if found and name != "kept"), default=None
    )
    for name, found in rates.items():
        rounds = row["contestants"][name]
        yield _line(name, found, rounds, best_peer)
    yield ""
    for name, rounds in row["contestants"].items():
        reasons = dict.fromkeys(found["error"] for found in rounds if "error" in found)
        for reason in reasons:
            yield f"{NAMES[name]} failed: {_short(reason)}"
            yield ""
    kind = "matrix peak" if prefill else "time at the read bandwidth and matrix peak"
    yield f"The limit is the {kind} measured beside kept's own runs. {_bandwidths(row)}"
    yield ""


def _line(
    name: str,
    rates: list[float],
    rounds: list[Mapping[str, Any]],
    best_peer: float | None,
) -> str:
    facts = next((found["facts"] for found in rounds if "facts" in found), {})
    label = f"{NAMES[name]}{_version(facts)}{_formats(facts)}"
    if not rates:
        return f"| {label} | failed | | | |"
    best, middle = best_and_median(rates)
    digits = 0 if best >= 1000 else 1
    ratio = "" if best_peer is None else f"{best / best_peer:.2f}"
    shares = [found["share"] for found in rounds if found.get("share") is not None]
    share = f"{100 * max(shares):.0f} %" if shares else ""
    return f"| {label} | {best:,.{digits}f} | {middle:,.{digits}f} | {ratio} | {share} |"


def _version(facts: Mapping[str, Any]) -> str:
    version = next(iter(facts.get("versions", {}).values()), None)
    return "" if version is None else f" {str(version).split('-')[0]}"


def _formats(facts: Mapping[str, Any]) -> str:
    """The formats that really ran."""
    names = ("weights", "arithmetic", "cache", "kernels")
    shown = [f"{str(facts[name]).removeprefix('torch.')} {name}" for name in names if name in facts]
    return f" ({', '.join(shown)})" if shown else ""


def _where(row: Results) -> str:
    machine, settings = row["machine"], row["settings"]
    date = datetime.fromisoformat(row["date"]).date()
    memory = machine["total_memory"]
    size = "" if memory is None else f", {memory / (1 << 30):.0f} GiB"
    rounds, runs = settings["rounds"], settings["rounds"] * settings["runs"]
    counted = "1 run" if runs == 1 else f"best and median of {runs} runs in {rounds} rounds"
    return (
        f"{date}, {machine['cpu']} ({' '.join(machine['features'])}), {settings['threads']} "
        f"threads{size}; {counted}."
    )


def _bandwidths(row: Results) -> str:
    probes = [f"{rate['best'] / 1e9:.1f}" for rate in row["bandwidths"]]
    return f"Read bandwidth between the rounds: {', '.join(probes)} GB/s."


def _short(reason: str) -> str:
    text = " ".join(reason.split()).replace("|", "/")
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]} ..."
