"""What only a process of its own shows: signals, closed pipes, terminals, what is imported."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from thinning import FULL

from cli.running import SOURCES, heed_ctrl_c, start
from kept import __version__

TIMEOUT = 120  # seconds, against waiting for ever
ENDLESS = ("--max-new-tokens", 10**6, "--overflow", "slide", "--ignore-eos")


def test_ctrl_c_for_real(folder: Path) -> None:
    with start("generate", "def add(a", "-m", folder, "--stats", *ENDLESS) as process:
        assert process.stdout is not None
        seen = process.stdout.read(len("def add(a") + 5)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130
    assert seen.startswith(b"def add(a")
    assert rest.endswith(b"\n")
    assert b"interrupted" in errors
    assert b"Traceback" not in errors


def test_a_reader_that_leaves(folder: Path) -> None:
    with start("generate", "def add(a", "-m", folder, *ENDLESS) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(12).startswith(b"def add(a")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=TIMEOUT) == 141


@pytest.mark.parametrize("backend", ["auto", "reference"] if FULL else ["auto"])
def test_an_interpreter_that_ends_while_a_daemon_thread_generates(
    folder: Path, backend: str
) -> None:
    code = (
        "import sys, threading\nfrom kept import LLM\n"
        "llm, begun = LLM(sys.argv[1]), threading.Event()\n"
        "def work():\n"
        "    for _ in llm.stream('def', max_new_tokens=10**6, overflow='slide', ignore_eos=True):\n"
        "        begun.set()\n"
        "threading.Thread(target=work, daemon=True).start()\n"
        "begun.wait()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, folder],
        env=os.environ | {"PYTHONPATH": str(SOURCES), "KEPT_OPS": backend},
        capture_output=True,
        timeout=TIMEOUT,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk(folder: Path) -> None:
    command = [sys.executable, "-m", "kept", "generate", "a", "-m", str(folder)]
    with open("/dev/full", "wb") as full:
        environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
        ended = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, env=environment, timeout=TIMEOUT
        )
    assert ended.returncode == 1
    assert ended.stderr.startswith(b"kept: the output cannot be written")
    assert b"Traceback" not in ended.stderr


def test_a_chat_at_a_terminal(folder: Path) -> None:
    """Ctrl-C stops an answer and the conversation goes on; Ctrl-D leaves."""
    leader, follower = pty.openpty()
    arguments = ["chat", "-m", str(folder), *map(str, ENDLESS)]
    process = subprocess.Popen(
        [sys.executable, "-m", "kept", *arguments],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={k: v for k, v in os.environ.items() if k != "NO_COLOR"}
        | {"PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1", "TERM": "xterm"},
        preexec_fn=heed_ctrl_c,
    )
    os.close(follower)
    screen = Screen(leader)
    try:
        screen.read_until(b"> ")
        os.write(leader, b"Hello\n")
        screen.read_until(b"Hello\r\n")
        screen.read_more(20)  # more than the line editor's own escape sequences
        process.send_signal(signal.SIGINT)
        screen.read_until(b"[stopped]")
        screen.read_until(b"> ")
        os.write(leader, b"/stats\n")
        screen.read_until(b"cached")
        screen.read_until(b"KiB")
        screen.read_until(b"> ")
        os.write(leader, b"\x04")
        assert process.wait(timeout=TIMEOUT) == 0
    finally:
        process.kill()
        process.wait()
        os.close(leader)
    assert b"\x1b[2m" in screen.shown
    assert b"/help for help" in screen.shown


class Screen:
    """What a terminal has shown, and how far it was looked at."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.shown, self.position = descriptor, b"", 0
        self.deadline = time.monotonic() + 3 * TIMEOUT

    def read_until(self, words: bytes) -> None:
        """Go on behind the next `words`."""
        while (found := self.shown.find(words, self.position)) < 0:
            self._read()
        self.position = found + len(words)

    def read_more(self, count: int) -> None:
        """Wait for this many bytes more."""
        while len(self.shown) < self.position + count:
            self._read()

    def _read(self) -> None:
        assert time.monotonic() < self.deadline, f"still waiting after {self.shown[-500:]!r}"
        ready, _, _ = select.select([self.descriptor], [], [], TIMEOUT)
        assert ready, f"nothing came for {TIMEOUT} s after {self.shown!r}"
        self.shown += os.read(self.descriptor, 4096)


def test_version_and_help_import_no_torch() -> None:
    code = (
        "import sys\nfrom kept.cli import app\n"
        "app(sys.argv[1:], standalone_mode=False, prog_name='kept')\n"
        "assert 'torch' not in sys.modules"
    )
    for arguments, words in (
        (["--version"], f"kept {__version__}"),
        (["generate", "--help"], "--top-p"),
        ([], "plan"),
    ):
        result = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=os.environ | {"PYTHONPATH": str(SOURCES)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert words in result.stdout
