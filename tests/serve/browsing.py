"""A browser, where there is one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

CHROMIUM = os.environ.get("KEPT_CHROMIUM") or shutil.which("chromium")
ROOT = Path(__file__).parents[2]
# `npm install axe-core` in the root of this repository, or wherever the variable says.
AXE = Path(os.environ.get("KEPT_AXE") or ROOT / "node_modules" / "axe-core" / "axe.min.js")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)


def why_not() -> str | None:
    """What is missing; None: nothing is."""
    if find_spec("playwright") is None:
        return "playwright is not here; pip install playwright"
    if CHROMIUM is None:
        return "chromium is not here; install it, or name it in KEPT_CHROMIUM"
    return None


@contextmanager
def browser() -> Iterator[Any]:
    """A browser of Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        found = player.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        try:
            yield found
        finally:
            found.close()
