"""The command line, a file per command. Nothing here imports torch before a command needs it."""

from __future__ import annotations

import io
import os
import sys
import warnings

from kept.cli.app import app
from kept.cli.errors import FAILED
from kept.cli.streams import drop_output, open_closed, say, why_not_written
from kept.errors import KeptWarning

__all__ = ["app", "main"]


def main() -> None:
    """Run `kept` with the process's arguments, and exit with its code."""
    if not sys.warnoptions and not os.environ.get("KEPT_DEBUG"):
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", KeptWarning)
        warnings.formatwarning = lambda message, *_, **__: f"kept: warning: {message}\n"
    open_closed()
    if not sys.stderr.isatty():
        # huggingface_hub draws its bars into pipes and files too.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        app(prog_name="kept")
    except OSError as error:  # of --help, --version and usage errors, which no command reports
        message = why_not_written(error)
        if message is None:
            raise
        say(message)
        drop_output()
        sys.exit(getattr(error.__context__, "exit_code", FAILED))  # a usage error has its own
