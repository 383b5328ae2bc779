"""Where blocks of keys and values could be stored: files, SQLite, LMDB.

    pip install lmdb && python benchmarks/prefix_formats.py --folder /where/the/disk/is

Records are of the size of a file of the prefix store: five blocks of 64 tokens of qwen2.5-0.5b in
bfloat16, 3.9 MB. Each way writes so many of them one by one, as they come from requests, reads them
back in another order into a buffer that is there, once from the page cache, and removes half while
it writes as many anew, as an evictor does. A read is done when the bytes are in the buffer and
their XXH3-128 is known; nothing is synced to the disk, which none of them needs for its promise.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import mkdtemp

from results import write_json
from xxhash import xxh3_128_digest

BLOCK_BYTES = 64 * 12_288
RECORD_BYTES = 5 * BLOCK_BYTES


class Files:
    """A file each, written beside its place and renamed, read with preadv."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, key: bytes, data: bytes) -> None:
        path = self._folder / (key.hex() + ".tmp")
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.posix_fallocate(file, 0, len(data))
        view, at = memoryview(data), 0
        while at < len(data):
            at += os.pwrite(file, view[at : at + (1 << 18)], at)
        os.close(file)
        path.rename(self._folder / key.hex())

    def get(self, key: bytes, into: bytearray) -> None:
        file = os.open(self._folder / key.hex(), os.O_RDONLY)
        os.preadv(file, [into], 0)
        os.close(file)

    def remove(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            (self._folder / key.hex()).unlink()


class Sqlite:
    """Rows with a blob, in a write-ahead log, pages of 16 KiB; read through its blob handles."""

    def __init__(self, folder: Path) -> None:
        self._db = sqlite3.connect(folder / "db", isolation_level=None)
        for pragma in ("page_size=16384", "journal_mode=wal", "synchronous=off"):
            self._db.execute(f"pragma {pragma}")
        self._db.execute("create table blocks (id integer primary key, key blob unique, data blob)")

    def put(self, key: bytes, data: bytes) -> None:
        self._db.execute("insert into blocks (key, data) values (?, ?)", (key, data))

    def get(self, key: bytes, into: bytearray) -> None:
        [row] = self._db.execute("select id from blocks where key = ?", (key,)).fetchone()
        with self._db.blobopen("blocks", "data", row, readonly=True) as blob:
            into[:] = blob.read()

    def remove(self, keys: Iterable[bytes]) -> None:
        self._db.executemany("delete from blocks where key = ?", [(key,) for key in keys])


class Lmdb:
    """Values in a map of memory that is as large as all may become."""

    def __init__(self, folder: Path) -> None:
        import lmdb

        self._env = lmdb.open(str(folder / "map"), map_size=16 << 30, sync=False, metasync=False)

    def put(self, key: bytes, data: bytes) -> None:
        with self._env.begin(write=True) as change:
            change.put(key, data)

    def get(self, key: bytes, into: bytearray) -> None:
        with self._env.begin(buffers=True) as look:
            into[:] = look.get(key)

    def remove(self, keys: Iterable[bytes]) -> None:
        with self._env.begin(write=True) as change:
            for key in keys:
                change.delete(key)


def bytes_of(folder: Path) -> int:
    """What a folder takes on the disk."""
    return sum(512 * path.stat().st_blocks for path in folder.rglob("*") if path.is_file())


def measure(store: object, folder: Path, count: int, data: list[bytes]) -> dict[str, float]:
    """Seconds a record of each kind of work, and how much larger than its content it became."""
    draws = random.Random(0)
    keys = [draws.randbytes(32) for _ in range(count)]
    into = bytearray(RECORD_BYTES)

    def timed(work: Callable[[], None], of: int) -> float:
        begin = time.perf_counter()
        work()
        return (time.perf_counter() - begin) / of

    def write(some: list[bytes]) -> None:
        for number, key in enumerate(some):
            store.put(key, data[number % len(data)])  # type: ignore[attr-defined]

    def read() -> None:
        for key in draws.sample(keys, len(keys)):
            store.get(key, into)  # type: ignore[attr-defined]
            xxh3_128_digest(into)

    def churn() -> None:
        for begin in range(0, count // 2, 8):
            some = keys[begin : begin + 8]
            store.remove(some)  # type: ignore[attr-defined]
            keys[begin : begin + 8] = [draws.randbytes(32) for _ in some]
            write(keys[begin : begin + 8])

    found = {"write": timed(lambda: write(keys), count)}
    timed(read, count)
    found["read"] = timed(read, count)
    found["evict and write"] = timed(churn, count // 2)
    found["read after"] = timed(read, count)
    found["disk over content"] = bytes_of(folder) / (count * RECORD_BYTES)
    return found


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--records", type=int, default=96)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    given.folder = given.folder.resolve()
    data = [os.urandom(RECORD_BYTES) for _ in range(4)]
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(given.runs):
        for kind in (Files, Sqlite, Lmdb):
            folder = Path(mkdtemp(dir=given.folder))
            try:
                result = measure(kind(folder), folder, given.records, data)
            finally:
                shutil.rmtree(folder)
            found.setdefault(kind.__name__, []).append(result)
    names = list(next(iter(found.values()))[0])
    print("| | " + " | ".join(f"{x}, ms" if x[0] != "d" else x for x in names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for kind_name, runs in found.items():
        middle = {name: sorted(run[name] for run in runs)[len(runs) // 2] for name in names}
        cells = [f"{x:.2f}" if name[0] == "d" else f"{1e3 * x:.2f}" for name, x in middle.items()]
        print(f"| {kind_name} | " + " | ".join(cells) + " |")
    write_json(
        given,
        {f"{k} {name}": [r[name] for r in runs] for k, runs in found.items() for name in names},
    )


if __name__ == "__main__":
    main()
