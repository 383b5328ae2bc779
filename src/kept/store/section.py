"""What a store holds for one model, instruction set and codec: found, read and filled."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kept.blocks import BLOCK, Namespace
from kept.blocks.keys import TOKEN_BYTES, next_key
from kept.store.file_format import FileError, salt_digest
from kept.store.index import Index, Place
from kept.store.names import MOST_BLOCKS, Entry, read_name, tag_of
from kept.store.reading import Read, Sink, Wanted, read_part
from kept.store.writing import Run, touch_chain, write_run

if TYPE_CHECKING:
    from kept.store.store import PrefixStore

FILE_BYTES: Final = 4 << 20  # of a file's blocks, but one at least
LEAST_TAIL: Final = 16  # tokens of a block that is not full for which one is written
FRESH: Final = 1.0  # seconds for which the names that were read last are taken for all


@dataclass(frozen=True, slots=True)
class Found:
    """What a store has of a text. places: of its blocks, in order. num_tokens: how many of the
    text's they surely hold. is_near: whether the last one is another text's, which may begin like
    the next block of this one."""

    places: tuple[Place, ...]
    num_tokens: int
    is_near: bool


NOTHING: Final = Found((), 0, False)


class Section:
    """The files of one namespace. Made by `PrefixStore.section`; threads may share it.

    block_bytes: of a block of all groups of layers.
    """

    def __init__(self, store: PrefixStore, namespace: Namespace, block_bytes: int) -> None:
        self.namespace, self._store, self.counters = namespace, store, store.counters
        self.folder: Path = store.folder / namespace.root().hex()[:16]
        self.blocks_of_file = max(1, min(MOST_BLOCKS, FILE_BYTES // block_bytes))
        self.is_ready = threading.Event()  # the names there were at first have been read
        self._index, self._lock = Index(), threading.Lock()
        self._coming: set[str] = set()  # tags of blocks that wait to be written
        self._runs: dict[str, Run] = {}  # not complete, by the tag of their last block
        self._read_at, self._changed_at, self._is_reading = -FRESH, -1, True
        store.readers.submit(self._read_names)

    @property
    def is_hanging(self) -> bool:
        """Whether nothing can be read just now, as the disk does not answer."""
        return self._store.is_hanging

    def has_any(self, root: bytes) -> bool:
        """Whether anything is stored behind a root."""
        self._refresh()
        with self._lock:
            return bool(self._index.following(tag_of(root)))

    def find(self, keys: Sequence[bytes], tokens: bytes) -> Found:
        """The longest prefix of a text that is stored, by names alone.

        keys: of its root and its whole blocks. tokens: as keys hash them.
        """
        size = BLOCK * TOKEN_BYTES
        with self._lock:
            places: list[Place] = []
            for key in keys[1:]:
                place = self._index.find(tag_of(key))
                if place is None:
                    break
                places.append(place)
            count = len(places)
            rest = tokens[count * size : (count + 1) * size]
            best: tuple[int, Place] | None = None
            following = self._index.following(tag_of(keys[count]))
            for tag in following:
                place = self._index.find(tag)
                part = b"" if place is None else rest[: place.num_tokens * TOKEN_BYTES]
                if place is None or place.num_tokens == BLOCK or not part:
                    continue
                is_it = len(part) == place.num_tokens * TOKEN_BYTES
                if is_it and tag_of(next_key(keys[count], part)) == tag:
                    best = max(best or (0, place), (place.num_tokens, place), key=lambda x: x[0])
            if best is not None:
                return Found((*places, best[1]), count * BLOCK + best[0], False)
            near = self._index.find(following[0]) if count and following and rest else None
        if near is not None:
            return Found((*places, near), count * BLOCK, True)
        return Found(tuple(places), count * BLOCK, False) if places else NOTHING

    def read(self, wanted: Sequence[Wanted], sink: Sink, patience: float) -> Read:
        """Read blocks in the background; see `Read`. patience: seconds until it is over."""
        found = Read(wanted, sink, time.monotonic() + patience)
        begun = time.monotonic()
        for indices in found.parts():
            self._store.readers.submit(lambda some=indices: self._read(found, some, begun))  # type: ignore[misc]
        return found

    def late(self, read: Read) -> None:
        """Note that a read did not come to its end in time."""
        self.counters.faults["late"] += 1

    def missing(self, keys: Sequence[bytes]) -> list[int]:
        """Which of some blocks are neither stored nor waiting to be."""
        tags = [tag_of(key) for key in keys]
        with self._lock:
            return [
                i
                for i, tag in enumerate(tags)
                if tag not in self._coming and self._index.find(tag) is None
            ]

    def takes(self, num_bytes: int) -> bool:
        """Whether a block of so many bytes may wait to be written; else it counts as dropped."""
        if self._store.takes(num_bytes):
            return True
        self.counters.dropped_blocks += 1
        return False

    def put(
        self,
        salt: str,
        start: int,
        before: bytes,
        key: bytes,
        tokens: bytes,
        data: Sequence[memoryview],
    ) -> None:
        """Have a block written, with others of its text that come next.

        before: the key before it; start: the text's tokens before it; tokens: its own, as keys hash
        them; data: of each group, which is nobody else's from now on.
        """
        tag = tag_of(key)
        with self._lock:
            run = self._runs.pop(tag_of(before), None)
            if run is not None and run.num_last < BLOCK:
                run = None
            run = run or Run(salt_digest(salt), before, start)
            run.keys.append(key)
            run.tokens.append(tokens)
            run.blocks.append(data)
            self._coming.add(tag)
            self._runs[tag] = run
        self._store.note_waiting(sum(map(len, data)))
        if len(run.keys) >= self.blocks_of_file or len(tokens) < BLOCK * TOKEN_BYTES:
            self.end(key)

    def end(self, key: bytes) -> None:
        """Write what waits up to a block, as its text has ended or makes room."""
        with self._lock:
            run = self._runs.pop(tag_of(key), None)
        if run is not None:
            self._store.writer.submit(lambda: self._write(run))

    def drop(self, keys: Sequence[bytes]) -> None:
        """Have the files removed that hold any of some blocks, those too that wait to be written,
        with whatever else lies in them."""
        tags = set(map(tag_of, keys))
        with self._lock:
            waiting = [run.keys for run in self._runs.values()]
        for of in waiting:
            if not tags.isdisjoint(map(tag_of, of)):
                self.end(of[-1])
        self._store.writer.submit(lambda: self._remove(tags))  # behind what is to be written

    def _remove(self, tags: set[str]) -> None:
        """Remove files; runs in the store's thread that writes."""
        with self._lock:
            entries = [x for x in self._index.entries.values() if not tags.isdisjoint(x.tags)]
        for entry in entries:
            self.forget(entry.name)
            with self._store.writing():
                self._store.ledger.remove(self.folder / entry.name, entry.size)

    def end_all(self) -> None:
        """Write all that waits."""
        with self._lock:
            keys = [run.keys[-1] for run in self._runs.values()]
        for key in keys:
            self.end(key)

    def begin_anew(self) -> None:
        """In a forked child: what waits to be written is the parent's, and its threads are not
        here."""
        self._lock = threading.Lock()
        self._coming, self._runs, self._is_reading = set(), {}, False
        self.is_ready.set()

    def forget(self, name: str) -> None:
        """A file is there no more."""
        with self._lock:
            self._index.remove(name)

    def refresh(self) -> None:
        """Read the names in its folder, in this thread."""
        self._read_names()

    def _refresh(self) -> None:
        """Have the names read again that other processes may have brought."""
        if time.monotonic() - self._read_at > FRESH and not self._is_reading:
            self._is_reading = True
            self._store.readers.submit(self._read_names)

    def _read_names(self) -> None:
        try:
            disk = self._store.disk
            changed = disk.changed(self.folder)
            if changed != self._changed_at:
                found = [
                    entry
                    for name, of in disk.list(self.folder)
                    if (entry := read_name(name, of.st_size)) is not None
                ]
                with self._lock:
                    self._index.keep(entry.name for entry in found)
                for begin in range(0, len(found), 256):
                    with self._lock:
                        for entry in found[begin : begin + 256]:
                            self._index.add(entry)
                self._changed_at = changed
        except FileNotFoundError:
            pass  # nothing has been written yet
        except OSError:
            self.counters.faults["unreadable"] += 1
        finally:
            self._read_at, self._is_reading = time.monotonic(), False
            self.is_ready.set()

    def _read(self, read: Read, indices: list[int], begun: float) -> None:
        """Read one file's blocks; runs in a thread of the store."""
        entry, fault = read.wanted[indices[0]].place.entry, None
        counters, before = self.counters, time.perf_counter()
        try:
            path = self.folder / entry.name
            count = read_part(read, indices, path, self._store.disk, self._store.key)
            counters.read_bytes += count
            counters.read_blocks += len(indices)
        except FileNotFoundError:
            counters.misses["gone"] += 1
            fault = "gone"
            self.forget(entry.name)
        except FileError as error:
            fault = error.reason
            counters.faults[fault] += 1
            self.forget(entry.name)
            with suppress(OSError):
                self._store.ledger.remove(self.folder / entry.name, entry.size)
        except OSError:
            fault = "unreadable"
            counters.faults[fault] += 1
            self.forget(entry.name)
        except BaseException:
            fault = "unreadable"
            counters.faults[fault] += 1
            raise
        finally:
            counters.read_seconds += time.perf_counter() - before
            if read.part_done(fault) and fault is None:
                self._note_read(read, begun)

    def _note_read(self, read: Read, begun: float) -> None:
        num_bytes = sum(of.place.entry.size // len(of.place.entry.tags) for of in read.wanted)
        self._store.note_speed(num_bytes, time.monotonic() - begun)
        with suppress(OSError):
            touch_chain(read.wanted[-1].place.entry, self._entry_of, self.folder, self._store.disk)

    def _entry_of(self, tag: str) -> Entry | None:
        with self._lock:
            place = self._index.find(tag)
        return None if place is None else place.entry

    def _write(self, run: Run) -> None:
        """Write a run; runs in the store's thread that writes."""
        store, tags = self._store, [tag_of(key) for key in run.keys]
        entry = None
        try:
            with store.writing():
                entry = write_run(
                    run, tags, tag_of(run.before), self.folder, store.ledger, store.disk,
                    store.key, self.namespace, store.name, store.pause,
                )  # fmt: skip
        finally:
            with self._lock:
                if entry is not None:
                    self._index.add(entry)
                self._coming.difference_update(tags)
            store.note_waiting(-run.num_bytes)
            for block in run.blocks:
                for data in block:
                    store.buffers.give(data)
            if entry is None:
                self.counters.dropped_blocks += len(tags)
        if entry is not None:
            self.counters.written_files += 1
            self.counters.written_blocks += len(tags)
            self.counters.written_bytes += entry.size
            with suppress(OSError):
                touch_chain(entry, self._entry_of, self.folder, store.disk)
