"""Numbers, dtypes, and tables of plain text that look alike on a terminal and in a file."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from kept.errors import OptionError


def format_bytes(count: int) -> str:
    """1536 -> "1.5 KiB"."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def dtype_name(dtype: object) -> str:
    """torch.float32 -> "float32", as config.json spells it; a name stays as it is."""
    return str(dtype).removeprefix("torch.")


def parse_bytes(text: str) -> int:
    """Read what `format_bytes` writes, or kB, MB, GB, TB of a thousand. Raises OptionError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([kKMGT])(i)?)?B?\s*", text)
    if found is None:
        raise OptionError(f"{text!r} is no size; give bytes, or as in 512MiB, 1.5GiB or 2GB")
    number, unit, binary = found.groups()
    scale = (1024 if binary else 1000) ** (" KMGT".index(unit.upper()) if unit else 0)
    if math.isinf(size := float(number) * scale):
        raise OptionError(f"{text[:20]!r}... is more than any memory has; give less")
    return int(size)


def format_count(count: int) -> str:
    """124439808 -> "124.4 M"."""
    for size, unit in ((10**9, "B"), (10**6, "M")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:,}"


def format_seconds(seconds: float | None) -> str:
    """0.0123 -> "12.3 ms"; None -> "-"."""
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def format_duration(seconds: float) -> str:
    """A time as one would say it: 100 -> "2 min"."""
    if seconds < 1:
        return f"{max(seconds, 0.01):.2f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def format_rate(rate: float | None) -> str:
    """Tokens per second; None -> "-"."""
    return "-" if rate is None else f"{rate:.1f} tokens/s"


def pairs(rows: Sequence[tuple[str, str]], indent: str = "") -> str:
    """Names and values, one a line, the values aligned."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{indent}{name:<{width}}  {value}" for name, value in rows)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns under a header: text to the left, what begins with a digit to the right."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [all(cell[:1].isdigit() or cell == "-" for cell in column[1:]) for column in columns]
    lines = [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        )
        for row in (header, *rows)
    ]
    return "\n".join(line.rstrip() for line in lines)
