"""A disk that fails, hangs and lies, and damage to the files of a store."""

from __future__ import annotations

import errno
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

from kept.store import Disk

READS = ("unreadable", "flipped", "short", "hangs", "gone")
WRITES = ("full", "unwritable", "hangs", "partial")


class FaultyDisk(Disk):
    """Fails some of its calls, by seeded chance. injected: how often, by how.

    reads, writes: how it fails these. rate: of how many calls. pause: seconds of one that hangs.
    """

    def __init__(
        self,
        seed: int,
        reads: Sequence[str] = (),
        writes: Sequence[str] = (),
        rate: float = 0.3,
        pause: float = 0.1,
    ) -> None:
        self._random, self._rate, self._pause = Random(seed), rate, pause
        self._reads, self._writes = tuple(reads), tuple(writes)
        self.injected: Counter[str] = Counter()

    def _fault(self, kinds: Sequence[str]) -> str | None:
        if not kinds or self._random.random() >= self._rate:
            return None
        return self._random.choice(kinds)

    def open(self, path: Path) -> int:
        """See `Disk.open`."""
        if path.suffix == ".kv" and "gone" in self._reads and self._fault(("gone",)):
            raise FileNotFoundError(errno.ENOENT, "planted", str(path))
        return super().open(path)

    def read(self, file: int, buffers: Sequence[memoryview], offset: int) -> int:
        """See `Disk.read`."""
        kind = self._fault([kind for kind in self._reads if kind != "gone"])
        if kind == "hangs":
            time.sleep(self._pause)
        if kind == "unreadable":
            self.injected["unreadable"] += 1
            raise OSError(errno.EIO, "planted")
        found = super().read(file, buffers, offset)
        if kind == "flipped":
            # Within the header, of what is read first, which may be more.
            some = min(found, 500) if not offset else found
            at = self._random.randrange(some)
            buffers[0][at] ^= 1 << self._random.randrange(8)
            self.injected["damaged"] += 1
        if kind == "short":
            self.injected["truncated"] += 1
            return self._random.randrange(min(found, 500))
        return found

    def reserve(self, file: int, size: int) -> None:
        """See `Disk.reserve`."""
        if "full" in self._writes and self._fault(("full",)):
            self.injected["full"] += 1
            raise OSError(errno.ENOSPC, "planted")
        super().reserve(file, size)

    def write(self, file: int, data: memoryview, offset: int) -> int:
        """See `Disk.write`."""
        kind = self._fault([kind for kind in self._writes if kind != "full"])
        if kind == "hangs":
            time.sleep(self._pause)
        if kind == "unwritable":
            self.injected["unwritable"] += 1
            raise OSError(errno.EIO, "planted")
        return super().write(
            file, data[: len(data) // 2 or 1] if kind == "partial" else data, offset
        )


def files_of(folder: Path) -> list[Path]:
    """The files of a store."""
    return sorted(folder.glob("*/*.kv"))


def total_bytes(folder: Path) -> int:
    """Of all files of a store, unfinished ones too."""
    return sum(path.stat().st_size for path in folder.glob("*/*"))


def cut(path: Path, draws: Random) -> None:
    """Truncate a file."""
    os.truncate(path, draws.randrange(path.stat().st_size))


def flip(path: Path, draws: Random) -> None:
    """Change one bit of a file."""
    with path.open("r+b") as file:
        at = draws.randrange(path.stat().st_size)
        file.seek(at)
        [byte] = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1 << draws.randrange(8)]))


def swap(path: Path, other: Path) -> None:
    """Let two files change places."""
    if path == other:
        return
    aside = path.with_suffix(".aside")
    path.rename(aside)
    other.rename(path)
    aside.rename(other)
