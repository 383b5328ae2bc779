"""What the laws of the grid recorded, as the tables of docs/caches.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from laws.grid import CODECS, LAYOUTS, PLACES
from laws.operations import OPERATIONS

PAGE = Path(__file__).parents[2] / "docs/caches.md"
BEGIN, END = "<!-- begin: written by scripts/cache_grid -->", "<!-- end -->"
HELD, REFUSED = "✓", "✗"
EVERY, APART = "every one", "; "  # of codecs
RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
WIDTHS = (64, 128)  # head sizes that bytes are told for

Properties = Sequence[tuple[str, Any]]


def render(properties: Properties) -> str:
    """The tables. properties: (name, value), what passing laws have recorded.

    Raises ValueError where an operation of a cache was not recorded exactly once.
    """
    cells: dict[tuple[str, ...], tuple[str, str | None]] = {}
    sizes: dict[tuple[str, int], int] = {}
    for name, value in properties:
        if name == "grid":
            *cell, outcome, reason = value
            if tuple(cell) in cells:
                raise ValueError(f"{cell} was recorded twice")
            cells[tuple(cell)] = outcome, reason
        elif name == "token bytes":
            codec, width, count = value
            sizes[codec, width] = count
    notes: dict[str, int] = {}
    parts = [_sizes(sizes), _table(cells, notes)]
    parts += [f"{number}. {reason}" for reason, number in notes.items()]
    if cells:
        raise ValueError(f"{next(iter(cells))} is not on the grid")
    return "\n".join(parts)


def _sizes(sizes: dict[tuple[str, int], int]) -> str:
    heading = [
        "Bytes that a key and a value of one head take, measured:",
        "",
        "| codec | " + " | ".join(f"D = {width}" for width in WIDTHS) + " |",
        "|---|" + "---:|" * len(WIDTHS),
    ]
    rows = [
        f"| {codec.name} | " + " | ".join(str(sizes[codec.name, w]) for w in WIDTHS) + " |"
        for codec in CODECS
        if sizes
    ]
    return "\n".join([*heading, *rows, ""])


def _table(cells: dict[tuple[str, ...], tuple[str, str | None]], notes: dict[str, int]) -> str:
    """Takes its cells out of `cells`, and adds reasons that are new to `notes`."""
    rows = []
    for layout in LAYOUTS:
        alike: dict[str, list[str]] = {}  # what is to be said of a codec, and of which
        for codec in CODECS:
            row = []
            for operation in OPERATIONS:
                marks = []
                for place in PLACES:
                    outcome, reason = cells.pop((layout.name, codec.name, place, operation))
                    mark = HELD if outcome == "held" else REFUSED
                    if reason is not None:
                        mark += str(notes.setdefault(reason, len(notes) + 1)).translate(RAISED)
                    marks.append(mark)
                row.append(" ".join(marks))
            alike.setdefault(" | ".join(row), []).append(codec.name)
        rows += [_row(layout.name, codecs, marks) for marks, codecs in alike.items()]
    return "\n".join(
        [
            f"| {', '.join(PLACES)} | codecs | " + " | ".join(OPERATIONS) + " |",
            "|---|---|" + "---|" * len(OPERATIONS),
            *rows,
            "",
        ]
    )


def _row(layout: str, codecs: Sequence[str], marks: str) -> str:
    named = EVERY if len(codecs) == len(CODECS) else APART.join(codecs)
    return f"| {layout} | {named} | {marks} |"


def rewrite(properties: Properties) -> None:
    """Put the tables into the page."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    page = f"{before}{BEGIN}\n\n{render(properties)}\n\n{END}{after}"
    PAGE.write_text(page, encoding="utf-8")


def axes(text: str) -> dict[str, list[str]]:
    """What a page says it is about: its layouts, codecs, places and operations."""
    tables = text.split(BEGIN)[1].split(END)[0]
    lines = [_columns(line) for line in tables.splitlines() if line.startswith("|")]
    widest = max(len(line) for line in lines)
    codecs = [line[0] for line in lines if len(line) < widest][2:]
    [places, _, *operations], _, *rows = [line for line in lines if len(line) == widest]
    named = [x for _, of, *_ in rows for x in (codecs if of == EVERY else of.split(APART))]
    return {
        "layouts": list(dict.fromkeys(row[0] for row in rows)),
        "codecs": sorted(set(named), key=codecs.index),
        "places": places.split(", "),
        "operations": operations,
    }


def _columns(line: str) -> list[str]:
    return [column.strip() for column in line.strip("|").split("|")]


def collected(reports: Iterable[Any]) -> Properties:
    """What the passing tests among pytest's reports recorded."""
    return [pair for report in reports if report.passed for pair in report.user_properties]
