"""The command line, a file per command. Nothing here imports torch before a command needs it."""

from __future__ import annotations

import io
import os
import sys
import warnings

from kept.cli.app import app
from kept.errors import KeptWarning

__all__ = ["app", "main"]


def main() -> None:
    """Run `kept` with the process's arguments, and exit with its code."""
    if not sys.warnoptions and not os.environ.get("KEPT_DEBUG"):
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", KeptWarning)
        warnings.formatwarning = lambda message, *_, **__: f"kept: warning: {message}\n"
    if sys.stdout is None:  # closed by the shell (>&-): whoever did so wants no output
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (until the end)
    if sys.stderr is None or not sys.stderr.isatty():
        # huggingface_hub draws its bars into pipes and files too.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app(prog_name="kept")
