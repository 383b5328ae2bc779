"""The page: one file that holds its style, its programs and the record, and asks for nothing else.

web/page.html has places for a title, for page.css, for the programs one after the other, and for
the record.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

# In this order: each uses what those before it define.
PROGRAMS = ("policies.js", "text.js", "grid.js", "panels.js", "page.js")
_PLACE = re.compile("%(TITLE|STYLE|PROGRAMS|RECORD)%")


def page(record: dict[str, Any]) -> str:
    """The page of a record (`json_record.as_json`), as HTML."""
    pieces = {
        "TITLE": html.escape(f"kept explain: {''.join(t['text'] for t in record['tokens'])}"),
        "STYLE": _piece("page.css"),
        "PROGRAMS": "\n".join(_piece(name) for name in PROGRAMS),
        "RECORD": _embed(record),
    }
    # In one pass, so that a prompt that holds such a place is left as it is.
    return _PLACE.sub(lambda place: pieces[place[1]], _piece("page.html"))


def write_page(record: dict[str, Any]) -> Callable[[Path], None]:
    """What writes the page of `record` to a path."""

    def write(path: Path) -> None:
        path.write_text(page(record), encoding="utf-8")

    return write


def _embed(record: dict[str, Any]) -> str:
    """JSON that cannot end the script element it stands in, whatever the texts in it are."""
    text = json.dumps(record, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _piece(name: str) -> str:
    return (Path(__file__).parent / "web" / name).read_text(encoding="utf-8")
