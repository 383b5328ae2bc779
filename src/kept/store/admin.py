"""A store as a whole, for whoever looks after it: what is there, whether it is sound, what may go.

Nothing here needs a model. Processes that use the directory meanwhile find out by themselves.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kept.errors import OptionError
from kept.store.counters import StoreCounters
from kept.store.disk import Disk
from kept.store.file_format import FileError, Header
from kept.store.ledger import Found, Ledger
from kept.store.names import read_name
from kept.store.reading import read_header, verify_file

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Summary:
    """The files of one model, instruction set and codec. header: of one of them, None: none can be
    read, as it is encrypted or damaged. last_use: in seconds, as `time.time` counts."""

    folder: Path
    num_files: int
    num_blocks: int
    num_bytes: int
    last_use: float
    header: Header | None


class Admin:
    """Looks after the store in a folder. key: of what is encrypted there.

    Raises OptionError for a folder that is not there, OSError.
    """

    def __init__(self, folder: Path, key: bytes | None = None, disk: Disk | None = None) -> None:
        if not folder.is_dir():
            raise OptionError(f"{folder} is not a folder; name one that prefixes are stored in")
        self._folder, self._key, self._disk = folder, key, disk or Disk()
        self._ledger = Ledger(folder, 1 << 62, self._disk, StoreCounters())

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(file.size for file in self._ledger.files())

    def summaries(self) -> list[Summary]:
        """Of each model's files, the last used first."""
        found: dict[Path, list[Found]] = {}
        for file in self._ledger.files():
            found.setdefault(file.path.parent, []).append(file)
        made = [self._summary(folder, files) for folder, files in found.items()]
        return sorted(made, key=lambda one: -one.last_use)

    def verify(
        self, remove: bool = False, progress: Progress | None = None
    ) -> Iterator[tuple[Path, str, str]]:
        """Read every file; yields each that is not sound, the reason as `StoreCounters.faults`
        names it, and what was found. remove: have these go."""
        files = list(self._ledger.files())
        total, done = sum(file.size for file in files), 0
        for file in files:
            try:
                header = verify_file(file.path, self._disk, self._key)
                self._check_name(file, header)
            except FileNotFoundError:
                pass  # gone meanwhile
            except FileError as error:
                yield file.path, error.reason, str(error)
                if remove:
                    self._ledger.remove(file.path, file.size)
            except OSError as error:
                yield file.path, "unreadable", str(error)
            done += file.size
            if progress is not None:
                progress(done, total)

    def prune(self, limit: int | None = None, older: float | None = None) -> Counter[str]:
        """Remove what was not used for so many seconds, then what was used least recently, until
        there are so many bytes at most; how many files and bytes went."""
        gone: Counter[str] = Counter()
        files = sorted(self._ledger.files(), key=lambda file: file.time_ns)
        total = sum(file.size for file in files)
        for file in files:
            is_old = older is not None and time.time() - file.time_ns / 1e9 > older
            if is_old or (limit is not None and total > limit):
                self._ledger.remove(file.path, file.size)
                total -= file.size
                gone += Counter(files=1, bytes=file.size)
        self._ledger.count()
        return gone

    def clear(self) -> Counter[str]:
        """Remove all that is stored; how many files and bytes."""
        return self.prune(limit=0)

    def _summary(self, folder: Path, files: list[Found]) -> Summary:
        entries = [read_name(file.path.name, file.size) for file in files]
        return Summary(
            folder,
            len(files),
            sum(len(entry.tags) for entry in entries if entry is not None),
            sum(file.size for file in files),
            max(file.time_ns for file in files) / 1e9,
            next(filter(None, map(self._header, files[:8])), None),
        )

    def _header(self, file: Found) -> Header | None:
        try:
            return read_header(file.path, self._disk, self._key)[0]
        except (FileError, OSError):
            return None

    def _check_name(self, file: Found, header: Header) -> None:
        """Raise FileError for a file in the place of another one."""
        if header.file_name != file.path.name:
            raise FileError("foreign", "it is in the place of another file")
        if header.namespace.root().hex()[:16] != file.path.parent.name:
            raise FileError("foreign", "it is in the folder of another model")
