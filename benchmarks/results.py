"""What benchmarks here write beside their tables."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence

import kept


def write_json(given: argparse.Namespace, seconds: Mapping[str, Sequence[float]]) -> None:
    """The options and the times, where the option --json names a file."""
    if given.json is not None:
        settings = {name: x for name, x in vars(given).items() if name != "json"}
        document = {"kept": kept.__version__, "settings": settings, "seconds": seconds}
        given.json.write_text(json.dumps(document, indent=1))
