"""What a store has read and written, and what went wrong, counted as it goes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class StoreCounters:
    """Of one process; they only rise.

    read_blocks, read_bytes, read_seconds: of blocks that were read and verified, and of the threads
    that did. written_files, written_blocks, written_bytes: of files that have their place.
    evicted_files: removed for want of room. dropped_blocks: not written, as too much waited or
    could not be. misses: files that a look-up named and that were not there any more ("gone"), and
    reads that were not begun, as computing is faster ("slower") or the disk hangs ("hanging").
    faults: by what went wrong:

        truncated   a file is shorter than it says    unreadable  the system failed a read
        damaged     it does not match its checksums   late        a read took too long
        stale       of another version of the format  unwritable  the system failed a write
        foreign     of another model, salt or text    full        the disk has no room
        sealed      not encrypted with this key       stuck       a write took too long
        busy        the lock of the folder was not to be had in time
    """

    read_blocks: int = 0
    read_bytes: int = 0
    read_seconds: float = 0.0
    written_files: int = 0
    written_blocks: int = 0
    written_bytes: int = 0
    evicted_files: int = 0
    dropped_blocks: int = 0
    misses: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
