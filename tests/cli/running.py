"""Running `kept`: in this process, or as a program of its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from kept.cli import app

SOURCES = Path(__file__).parents[2] / "src"


def kept(*arguments: object, stdin: str | bytes | None = None) -> Result:
    """Run a command here; stdin is a pipe, as it is in a script."""
    return CliRunner().invoke(app, [str(a) for a in arguments], input=stdin, prog_name="kept")


def heed_ctrl_c() -> None:
    """For a child before it runs: a shell's background jobs inherit that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(*arguments: object, **environment: str) -> subprocess.Popen[bytes]:
    """Start `python -m kept` with all three streams piped."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("KEPT_", "NO_COLOR"))}
    return subprocess.Popen(
        [sys.executable, "-m", "kept", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=inherited
        | {"PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1", "KEPT_PREFIX_STORE": "off"}
        | environment,
        preexec_fn=heed_ctrl_c,
    )
