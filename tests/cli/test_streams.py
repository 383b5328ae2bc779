"""Ctrl-C at any time, and standard streams that are closed or full: a code and at most a line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.running import SOURCES, heed_ctrl_c

TIMEOUT = 120  # seconds, against waiting for ever
# Raises SIGINT as a module is about to be imported, or as the interpreter ends.
INTERRUPTING = """
import atexit, os, signal, sys
moment = sys.argv.pop(1)
def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == moment:
            interrupt()
if moment == "end":
    atexit.register(interrupt)
sys.meta_path.insert(0, Finder())
from kept.__main__ import main
main()
"""


def environment() -> dict[str, str]:
    # What is buffered is still there when the interpreter ends.
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return buffered | {"PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    ("moment", "code"),
    [("kept.cli", 130), ("typer", 130), ("torch", 130), ("kept.models.weights", 130), ("end", 0)],
)
def test_ctrl_c_outside_a_command_ends_it_without_a_word(
    moment: str, code: int, folder: Path
) -> None:
    command = [sys.executable, "-c", INTERRUPTING, moment, "generate", "a", "-m", str(folder)]
    ended = subprocess.run(
        [*command, "--max-new-tokens", "2"],
        env=environment(),
        capture_output=True,
        preexec_fn=heed_ctrl_c,
        timeout=TIMEOUT,
    )
    assert (ended.returncode, ended.stderr) == (code, b"")


def run(arguments: list[str], closed: tuple[int, ...], full: tuple[int, ...] = ()) -> list[object]:
    """The exit code, and the lines of stdout and stderr, with some streams closed or full."""

    def prepare() -> None:
        for descriptor in full:
            os.dup2(os.open("/dev/full", os.O_WRONLY), descriptor)
        for descriptor in closed:
            os.close(descriptor)

    ended = subprocess.run(
        [sys.executable, "-m", "kept", *arguments],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        preexec_fn=prepare,
        timeout=TIMEOUT,
    )
    return [ended.returncode, ended.stdout.splitlines(), ended.stderr.decode().splitlines()]


NOWHERE = "kept: the output cannot be written: stdout is closed"


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_streams_that_are_closed(closed: tuple[int, ...]) -> None:
    code, out, errors = run(["--version"], closed)
    assert code == (1 if 1 in closed else 0)
    assert len(out) == (0 if 1 in closed else 1)
    told = 1 in closed and 2 not in closed
    assert [error.partition(";")[0] for error in errors] == [NOWHERE] * told


def test_a_text_without_stderr_and_stdin(folder: Path) -> None:
    arguments = ["generate", "def", "-m", str(folder), "--max-new-tokens", "3", "--stats"]
    code, out, _ = run(arguments, (0, 2))
    assert (code, bool(out)) == (0, True)
    code, out, errors = run(["chat", "-m", str(folder)], (0,))
    assert (code, out) == (2, [])
    assert errors == ["kept: stdin is closed, so nothing can be said; give a terminal or a pipe"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_a_full_disk_where_no_command_runs(arguments: list[str]) -> None:
    code, _, errors = run(arguments, (), full=(1,))
    assert code == 1
    assert len(errors) == 1
    assert errors[0].startswith("kept: the output cannot be written: No space left on device")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_an_error_that_cannot_be_told_keeps_its_code() -> None:
    assert run(["bench", "nonsense"], (), full=(2,))[0] == 2
    assert run(["plan", "./nowhere"], (), full=(2,))[0] == 1
