"""`kept serve` in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Running:
    """url: where it answers. process: it."""

    url: str
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)


def resident(pid: int) -> int:
    """The memory that a process has, in bytes (Linux)."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", text)
    assert found is not None, text
    return int(found[1]) << 10


@contextmanager
def serving(*arguments: str) -> Iterator[Running]:
    """A server at a free port, which is killed at the end if it has not ended by then."""
    command = [sys.executable, "-m", "kept", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    assert process.stderr is not None
    try:
        said = b""
        while b" answers at " not in said:
            line = process.stderr.readline()
            assert line, said.decode()
            said += line
        found = re.search(r"http://\S+", said.decode())
        assert found is not None
        _drain(process)
        yield Running(found[0], process)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _drain(process: subprocess.Popen[bytes]) -> None:
    """Read on what it says, so that it never waits for that."""
    import threading

    assert process.stderr is not None
    threading.Thread(target=process.stderr.read, daemon=True).start()
