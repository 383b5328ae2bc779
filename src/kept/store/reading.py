"""Blocks on their way out of files."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Protocol

from kept.blocks import BLOCK
from kept.blocks.keys import TOKEN_BYTES, token_bytes
from kept.store.disk import Disk
from kept.store.file_format import (
    FIXED,
    FileError,
    Header,
    checksum,
    header_bytes,
    unpack,
)
from kept.store.index import Place
from kept.store.seal import TAG_BYTES, FileSeal, SealError

GUESS = 1 << 14  # bytes read at first, which hold most headers
_buffers = threading.local()  # of each thread that reads, so that its pages are there


class Sink(Protocol):
    """Who takes what is read, from any thread."""

    def prepare(self, indices: Sequence[int], group: int) -> None:
        """These blocks of a group come next."""

    def put(self, index: int, group: int, data: memoryview) -> None:
        """Take the verified bytes of a block of a group; they are another's afterwards."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A block to read. before: the key before it. tokens: those it is to hold, as keys hash them;
    None: whatever it does. groups: which of its groups of layers are read."""

    place: Place
    before: bytes
    tokens: bytes | None
    groups: tuple[int, ...]


class Read:
    """Some consecutive blocks of a text that are being read.

    Each goes to the sink once it is verified. When the deadline, a `time.monotonic`, has passed, it
    is over as well: what has arrived by `end` counts, and nothing goes to the sink any more.
    """

    def __init__(self, wanted: Sequence[Wanted], sink: Sink, deadline: float) -> None:
        self.wanted, self.deadline = tuple(wanted), deadline
        self.last_tokens: bytes | None = None  # of the last block, where it was not known before
        self.fault: str | None = None  # the first
        self._sink: Sink | None = sink
        self._arrived = [0] * len(wanted)  # groups
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._num_left = len(self.parts())
        if not self._num_left:
            self._done.set()

    def parts(self) -> list[list[int]]:
        """Which blocks lie in which file, in order; those of which nothing is read left out."""
        some = [i for i, of in enumerate(self.wanted) if of.groups]
        files = groupby(some, lambda i: self.wanted[i].place.entry.name)
        return [list(indices) for _, indices in files]

    @property
    def is_over(self) -> bool:
        """Whether there is nothing to wait for."""
        return self._done.is_set() or time.monotonic() > self.deadline

    @property
    def is_late(self) -> bool:
        """Whether it has not come to its end in time."""
        return not self._done.is_set() and time.monotonic() > self.deadline

    def wait(self, timeout: float) -> None:
        """Wait until it is over, for so many seconds at most."""
        self._done.wait(max(0.0, min(timeout, self.deadline - time.monotonic())))

    def end(self) -> int:
        """How many first blocks have arrived; no more do from now on, and it is over."""
        with self._lock:
            self._sink = None
            self._done.set()
            pairs = zip(self._arrived, self.wanted, strict=True)
            whole = [count == len(of.groups) for count, of in pairs]
        return whole.index(False) if False in whole else len(whole)

    def prepare(self, indices: Sequence[int], group: int) -> None:
        """Have the sink ready for some blocks of a group."""
        with self._lock:
            if self._sink is not None:
                self._sink.prepare(indices, group)

    def deliver(self, index: int, group: int, data: memoryview) -> bool:
        """Take a block of a group in; False: nobody waits any more."""
        with self._lock:
            if self._sink is None:
                return False
            self._sink.put(index, group, data)
            self._arrived[index] += 1
            return True

    def part_done(self, fault: str | None) -> bool:
        """A file has been read, or not; whether it was the last one."""
        with self._lock:
            self.fault = self.fault or fault
            self._num_left -= 1
            is_last = not self._num_left
        if is_last:
            self._done.set()
        return is_last


def read_part(read: Read, indices: Sequence[int], path: Path, disk: Disk, key: bytes | None) -> int:
    """Read blocks that lie in one file, verify and deliver them; how many bytes these were.

    Raises FileError for a file that is not what it should be, OSError.
    """
    file = disk.open(path)
    try:
        size = disk.size(file)
        start = _start_of(disk, file)
        header, seal = unpack(start, size, key)
        data_at = FIXED + header_bytes(start)
        _check_text(read, indices, header)
        total = 0
        for group in range(len(header.group_bytes)):
            some = [i for i in indices if group in read.wanted[i].groups]
            if some:
                total += _read_group(read, some, group, header, seal, disk, file, data_at)
        return total
    finally:
        disk.close(file)


def read_header(path: Path, disk: Disk, key: bytes | None) -> tuple[Header, FileSeal | None]:
    """What a file says of itself. Raises FileError, OSError."""
    file = disk.open(path)
    try:
        return unpack(_start_of(disk, file), disk.size(file), key)
    finally:
        disk.close(file)


def verify_file(path: Path, disk: Disk, key: bytes | None) -> Header:
    """Read all of a file, and hold it against its checksums. Raises FileError, OSError."""
    file = disk.open(path)
    try:
        start = _start_of(disk, file)
        header, seal = unpack(start, disk.size(file), key)
        data_at = FIXED + header_bytes(start)
        for group in range(len(header.group_bytes)):
            for position in range(header.num_blocks):
                record = _record(header, seal, group, position)
                piece = _fill(disk, file, record.size, data_at + record.offset)
                record.open(piece)
        return header
    finally:
        disk.close(file)


def _start_of(disk: Disk, file: int) -> bytes:
    start = bytearray(GUESS)
    got = disk.read(file, [memoryview(start)], 0)
    found = bytes(start[:got])
    missing = FIXED + header_bytes(found) - got
    if missing > 0 and got == GUESS:
        rest = bytearray(missing)
        more = disk.read(file, [memoryview(rest)], got)
        found += rest[:more]
    return found


def _check_text(read: Read, indices: Sequence[int], header: Header) -> None:
    """Raise FileError for a file of another text, or of another model."""
    tokens, size, keys = token_bytes(header.tokens), TOKEN_BYTES * BLOCK, header.keys
    pieces = [tokens[i : i + size] for i in range(0, len(tokens), size)]
    for index in indices:
        wanted = read.wanted[index]
        position = wanted.place.position
        if position >= len(pieces) or keys[position] != wanted.before:
            raise FileError("foreign", "it is of another text, salt or model")
        if wanted.tokens is None:
            read.last_tokens = pieces[position]
        elif wanted.tokens != pieces[position]:
            raise FileError("foreign", "it holds other tokens than its name says")


@dataclass(frozen=True, slots=True)
class _Record:
    """A block of a group in its file."""

    number: int
    size: int
    offset: int
    checksum: str
    seal: FileSeal | None

    def open(self, data: memoryview) -> memoryview:
        """Its verified bytes, as they lie in memory. Raises FileError."""
        if self.seal is not None:
            try:
                data = memoryview(self.seal.open(self.number, data))
            except SealError as error:
                raise FileError("damaged", f"its {error} has been changed") from error
        if checksum(data) != self.checksum:
            raise FileError("damaged", "a block does not match its checksum")
        return data


def _record(header: Header, seal: FileSeal | None, group: int, position: int) -> _Record:
    sealed = seal is not None
    return _Record(
        header.record(group, position),
        header.group_bytes[group] + TAG_BYTES * sealed,
        header.offset(group, position, sealed),
        header.checksums[group][position],
        seal,
    )


def _fill(disk: Disk, file: int, size: int, offset: int) -> memoryview:
    """So many bytes of a file, in this thread's buffer. Raises FileError where they end before."""
    buffer: bytearray | None = getattr(_buffers, "bytes", None)
    if buffer is None or len(buffer) < size:
        buffer = _buffers.bytes = bytearray(size)
    view = memoryview(buffer)[:size]
    if disk.read(file, [view], offset) < size:
        raise FileError("truncated", "it ends within a block")
    return view


def _read_group(
    read: Read,
    indices: Sequence[int],
    group: int,
    header: Header,
    seal: FileSeal | None,
    disk: Disk,
    file: int,
    data_at: int,
) -> int:
    total = 0
    read.prepare(indices, group)
    for index in indices:
        record = _record(header, seal, group, read.wanted[index].place.position)
        data = record.open(_fill(disk, file, record.size, data_at + record.offset))
        if not read.deliver(index, group, data):
            return total
        total += record.size
    return total
