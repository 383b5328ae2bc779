"""Blocks on their way into files."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from kept.blocks import BLOCK, Namespace
from kept.blocks.keys import token_ids
from kept.store.disk import Disk
from kept.store.file_format import Header, checksum, pack
from kept.store.ledger import Ledger
from kept.store.names import Entry, name_of

SLICE = 1 << 16  # bytes of one call


@dataclass(slots=True)
class Run:
    """Consecutive blocks of a text that become one file.

    salt: a hash of the text's. before: the key before the first. start: tokens before it. keys,
    tokens: of each block, tokens as keys hash them. blocks: of each, of each group, its bytes.
    """

    salt: str
    before: bytes
    start: int
    keys: list[bytes] = field(default_factory=list)
    tokens: list[bytes] = field(default_factory=list)
    blocks: list[Sequence[memoryview]] = field(default_factory=list)

    @property
    def num_bytes(self) -> int:
        """Of all blocks."""
        return sum(len(group) for block in self.blocks for group in block)

    @property
    def num_last(self) -> int:
        """Tokens of the last block."""
        return len(self.tokens[-1]) // 8

    def header(self, namespace: Namespace, name: str) -> Header:
        """What its file says of itself."""
        groups = list(zip(*self.blocks, strict=True))
        return Header(
            namespace,
            self.salt,
            self.before,
            self.start,
            tuple(token_ids(b"".join(self.tokens))),
            tuple(len(group[0]) for group in groups),
            tuple(tuple(map(checksum, group)) for group in groups),
            name,
        )


def write_run(
    run: Run,
    tags: list[str],
    after: str,
    folder: Path,
    ledger: Ledger,
    disk: Disk,
    key: bytes | None,
    namespace: Namespace,
    model: str,
    pause: Callable[[], object],
) -> Entry:
    """Write a file of these blocks, once there is room for it. pause: called between two slices.
    Raises OSError."""
    header = run.header(namespace, model)
    pieces = pack(header, list(zip(*run.blocks, strict=True)), key)
    size = sum(map(len, pieces))
    path, handle = ledger.new_file(folder, size)
    name = name_of(after, tags, run.num_last)
    try:
        try:
            offset = 0
            for piece in pieces:
                offset += _write_all(disk, handle, memoryview(piece), offset, pause)
            disk.rename(path, folder / name)  # before it is unlocked
        finally:
            disk.close(handle)
    except BaseException:
        with suppress(OSError):
            ledger.remove(path, size)
        raise
    return Entry(name, after, tuple(tags), run.num_last or BLOCK, size)


def _write_all(
    disk: Disk, handle: int, data: memoryview, offset: int, pause: Callable[[], object]
) -> int:
    written = 0
    while written < len(data):
        count = disk.write(handle, data[written : written + SLICE], offset + written)
        if count <= 0:
            raise OSError(f"the system wrote {count} bytes")
        written += count
        pause()
    return written


def touch_chain(
    entry: Entry, before: Callable[[str], Entry | None], folder: Path, disk: Disk
) -> None:
    """Note that a file was used, and those before it in its text: each a little later than the one
    that follows, so that this goes first."""
    now, seen = time.time_ns(), set[str]()
    at: Entry | None = entry
    while at is not None and at.name not in seen:
        with suppress(FileNotFoundError):
            disk.touch(folder / at.name, now)
        seen.add(at.name)
        now += 1000
        at = before(at.after)
