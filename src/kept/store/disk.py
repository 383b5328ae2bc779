"""The calls to the system that a store makes, in one place, so that tests can have them fail."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

_CLOSE = getattr(os, "O_CLOEXEC", 0)
_READ = os.O_RDONLY | _CLOSE | getattr(os, "O_NOFOLLOW", 0)
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CLOSE
_NOT_RESERVABLE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
MOST_BUFFERS = 1000  # of one call; systems take at least 1,024


class Disk:
    """Files and folders. Everything here raises OSError."""

    def open(self, path: Path) -> int:
        """A file to read from."""
        return os.open(path, _READ)

    def size(self, file: int) -> int:
        """Bytes of an open file."""
        return os.fstat(file).st_size

    def read(self, file: int, buffers: Sequence[memoryview], offset: int) -> int:
        """Fill buffers with what lies from `offset` on; how many bytes there were."""
        found = 0
        for begin in range(0, len(buffers), MOST_BUFFERS):
            some = buffers[begin : begin + MOST_BUFFERS]
            wanted = sum(map(len, some))
            got = os.preadv(file, some, offset + found)
            found += got
            if got < wanted:
                break
        return found

    def create(self, path: Path) -> int:
        """A new file to write to, which its owner alone can read."""
        return os.open(path, _CREATE, 0o600)

    def reserve(self, file: int, size: int) -> None:
        """Have room for so many bytes in a new file."""
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file, 0, size)
                return
            except OSError as error:
                if error.errno not in _NOT_RESERVABLE:
                    raise
        os.ftruncate(file, size)

    def write(self, file: int, data: memoryview, offset: int) -> int:
        """Write some of `data` at `offset`; how many bytes."""
        return os.pwrite(file, data, offset)

    def close(self, file: int) -> None:
        """Close a file."""
        os.close(file)

    def rename(self, path: Path, to: Path) -> None:
        """Move a file, over another one if there is one."""
        path.rename(to)

    def remove(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()

    def touch(self, path: Path, time_ns: int) -> None:
        """Say when a file was last used."""
        os.utime(path, ns=(time_ns, time_ns))

    def make_folder(self, path: Path) -> None:
        """A folder that its owner alone can look into, and those above it."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def changed(self, folder: Path) -> int:
        """When a name in a folder last came or went, in nanoseconds."""
        return folder.stat().st_mtime_ns

    def list(self, folder: Path) -> Iterator[tuple[str, os.stat_result]]:
        """Names in a folder, and what is known of them; those that go meanwhile are left out."""
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    yield entry.name, entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
