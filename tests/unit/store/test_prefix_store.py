"""A store by itself: what its files say, how much room they take, and what a bad disk costs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from kept.blocks import BLOCK, Namespace
from kept.blocks.keys import chain, next_key, token_bytes
from kept.errors import OptionError
from kept.store import Admin, Disk, PrefixStore, Read, Section, Wanted, store
from kept.store.names import name_of, read_name, tag_of

SIZES = 1000, 300  # bytes of a block of each group
KEY = "0123456789abcdef" * 4


class Kept:
    """Keeps what is read."""

    def __init__(self) -> None:
        self.got: dict[tuple[int, int], bytes] = {}

    def prepare(self, indices: Sequence[int], group: int) -> None:
        """See `Sink.prepare`."""

    def put(self, index: int, group: int, data: memoryview) -> None:
        """See `Sink.put`."""
        self.got[index, group] = bytes(data)


def opened(folder: Path, limit: int = 1 << 20, key: str | None = None, disk: Disk | None = None):
    found = PrefixStore(folder, limit, key=key, disk=disk)
    found.identify("model", "isa", "kernels", "a model")
    return found


def section_of(of: PrefixStore) -> Section:
    return of.section(of.namespace("int8", (None, 100)), sum(SIZES))


def text(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1000, count)


def content(seed: int, block: int, group: int) -> bytes:
    return np.random.default_rng([seed, block, group]).bytes(SIZES[group])


def fill(section: Section, seed: int, count: int, first: int = 0) -> None:
    """Put the blocks of a text, and have them written."""
    tokens = text(seed, count)
    data, root = token_bytes(tokens), section.namespace.root("salt")
    before = root
    for index in range(-(-count // BLOCK)):
        piece = data[512 * index : 512 * (index + 1)]
        key = next_key(before, piece)
        if index >= first:
            blocks = [memoryview(content(seed, index, group)) for group in range(2)]
            section.put("salt", BLOCK * index, before, key, piece, blocks)
        before = key
    section.end(before)


def read(section: Section, seed: int, count: int) -> tuple[Read, Kept, int]:
    """Read what there is of a text; how many blocks came."""
    tokens, root = text(seed, count), section.namespace.root("salt")
    data, keys = token_bytes(tokens), [root, *chain(root, tokens)]
    found = section.find(keys, data)
    wanted = []
    for index, place in enumerate(found.places):
        is_near = found.is_near and index == len(found.places) - 1
        piece = None if is_near else data[512 * index : 512 * index + 8 * place.num_tokens]
        wanted.append(Wanted(place, keys[index], piece, (0, 1)))
    sink = Kept()
    done = section.read(wanted, sink, 5.0)
    done.wait(5.0)
    return done, sink, done.end()


@pytest.mark.parametrize("key", [None, KEY])
def test_what_is_put_is_read(tmp_path: Path, key: str | None) -> None:
    first = opened(tmp_path, key=key)
    fill(section_of(first), 1, 40 * BLOCK + 20)
    assert first.flush(60)
    second = opened(tmp_path, key=key)
    section = section_of(second)
    assert section.is_ready.wait(60)
    _, sink, count = read(section, 1, 40 * BLOCK + 20)
    assert count == 41
    assert sink.got == {(i, g): content(1, i, g) for i in range(41) for g in range(2)}
    assert not second.counters.faults
    assert [path.stat().st_mode & 0o777 for path in tmp_path.glob("*/*")] == [0o600] * 3


def test_a_closed_store_writes_what_waits_and_no_more(tmp_path: Path) -> None:
    of = opened(tmp_path)
    section = section_of(of)
    fill(section, 1, 2 * BLOCK)
    assert of.close(60)
    there = sorted(tmp_path.glob("*/*"))
    assert len(there) == 1
    assert not section.takes(sum(SIZES))
    assert read(section, 1, 2 * BLOCK)[2] == 2
    assert sorted(tmp_path.glob("*/*")) == there


def test_names_say_what_files_hold() -> None:
    tags = ["a" * 12, "b" * 12]
    for num_last in (1, 20, 64):
        entry = read_name(name_of("0" * 12, tags, num_last), 5)
        assert entry is not None
        assert (entry.after, list(entry.tags), entry.num_last) == ("0" * 12, tags, num_last)
    for name in ("x.kv", "lock", f"{'a' * 12}-.kv", f"{'a' * 12}-{'b' * 12}-t65.kv", "a.tmp"):
        assert read_name(name, 5) is None
    assert len(name_of("0" * 12, tags * 8, 5)) < 255


def test_a_text_that_goes_on_another_way_is_near(tmp_path: Path) -> None:
    of = opened(tmp_path)
    section = section_of(of)
    fill(section, 1, 4 * BLOCK)
    assert of.flush(60)
    tokens, root = text(1, 4 * BLOCK), section.namespace.root("salt")
    tokens[3 * BLOCK + 5] += 1
    found = section.find([root, *chain(root, tokens)], token_bytes(tokens))
    assert (found.num_tokens, found.is_near, len(found.places)) == (3 * BLOCK, True, 4)
    tokens[5] += 1
    assert not section.find([root, *chain(root, tokens)], token_bytes(tokens)).places


def test_room_is_kept_and_the_least_used_goes(tmp_path: Path) -> None:
    limit = 60_000
    of = opened(tmp_path, limit)
    section = section_of(of)
    for seed in range(12):
        fill(section, seed, 8 * BLOCK)
        assert of.flush(60)
        assert sum(path.stat().st_size for path in tmp_path.glob("*/*")) <= limit
        assert read(section, 0, 8 * BLOCK)[2] == 8, "it was used just now"
        assert of.flush(60)
        time.sleep(0.002)
    assert of.counters.evicted_files
    assert read(section, 1, 8 * BLOCK)[2] == 0
    assert int((tmp_path / "bytes").read_text()) == sum(
        path.stat().st_size for path in tmp_path.glob("*/*.kv")
    )


def test_what_a_killed_process_leaves_is_cleared(tmp_path: Path) -> None:
    of = opened(tmp_path)
    section = section_of(of)
    fill(section, 1, 8 * BLOCK)
    assert of.flush(60)
    (section.folder / "0011223344556677.tmp").write_bytes(bytes(5000))
    (tmp_path / "bytes").write_text("12")
    again = opened(tmp_path)
    assert again.flush(60)
    assert not list(tmp_path.glob("*/*.tmp"))
    assert int((tmp_path / "bytes").read_text()) > 8 * sum(SIZES)


class Hanging(Disk):
    """Stops where it is told to until it is let go."""

    def __init__(self, call: str) -> None:
        self.call, self.let_go, self.is_on = call, threading.Event(), False

    def _wait(self, call: str) -> None:
        if self.is_on and call == self.call:
            self.let_go.wait(60)

    def read(self, file: int, buffers: Sequence[memoryview], offset: int) -> int:
        """See `Disk.read`."""
        self._wait("read")
        return super().read(file, buffers, offset)

    def write(self, file: int, data: memoryview, offset: int) -> int:
        """See `Disk.write`."""
        self._wait("write")
        return super().write(file, data, offset)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "HANGS", 0.05)


@pytest.mark.usefixtures("impatient")
def test_a_disk_that_hangs_is_left_alone(tmp_path: Path) -> None:
    fill(section_of(opened(tmp_path)), 1, 8 * BLOCK)
    disk = Hanging("read")
    of = opened(tmp_path, disk=disk)
    section = section_of(of)
    assert section.is_ready.wait(60)
    while not section.find([b"", *chain(section.namespace.root("salt"), text(1, 512))], b"").places:
        section.refresh()
        time.sleep(0.01)
    disk.is_on = True
    root = section.namespace.root("salt")
    keys = [root, *chain(root, text(1, 8 * BLOCK))]
    found = section.find(keys, token_bytes(text(1, 8 * BLOCK)))
    reads = []
    for _ in range(8):
        wanted = [Wanted(p, keys[i], None, (0,)) for i, p in enumerate(found.places)]
        reads.append(section.read(wanted, Kept(), 0.01))
    time.sleep(0.2)
    assert all(one.is_late and one.end() == 0 for one in reads)
    assert section.is_hanging
    disk.let_go.set()
    while section.is_hanging:
        time.sleep(0.01)


@pytest.mark.usefixtures("impatient")
def test_nor_does_a_write_hold_anybody_up(tmp_path: Path) -> None:
    disk = Hanging("write")
    disk.is_on = True
    of = opened(tmp_path, disk=disk)
    section = section_of(of)
    fill(section, 1, 8 * BLOCK)
    time.sleep(0.2)
    assert not section.takes(1000)
    assert not section.takes(1000)
    assert of.counters.faults == {"stuck": 1}
    assert of.counters.dropped_blocks == 2
    assert not of.flush(0.05)
    disk.let_go.set()
    assert of.flush(60)
    assert section.takes(1000)


def test_a_forked_child_begins_anew(tmp_path: Path) -> None:
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_prefix_store import *
of = opened(Path({str(tmp_path)!r}))
section = section_of(of)
fill(section, 1, 8 * BLOCK)
assert of.flush(60)
child = os.fork()
if not child:
    assert read(section, 1, 8 * BLOCK)[2] == 8
    fill(section, 2, 8 * BLOCK)
    assert of.flush(60)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
section.refresh()
assert read(section, 2, 8 * BLOCK)[2] == 8
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_files_are_looked_after(tmp_path: Path) -> None:
    of = opened(tmp_path)
    section = section_of(of)
    for seed in range(3):
        fill(section, seed, 8 * BLOCK)
    assert of.flush(60)
    admin = Admin(tmp_path)
    [summary] = admin.summaries()
    assert (summary.num_files, summary.num_blocks) == (3, 24)
    assert summary.header is not None
    assert summary.header.name == "a model"
    assert not list(admin.verify())
    first, second, third = sorted(tmp_path.glob("*/*.kv"))
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    second.rename(third)
    found = {path: reason for path, reason, _ in admin.verify(remove=True)}
    assert found == {first: "damaged", third: "foreign"}
    assert not list(admin.verify())
    assert not admin.summaries()
    fill(section, 9, 8 * BLOCK)
    assert of.flush(60)
    assert admin.prune(older=1000) == {}
    assert admin.clear()["files"] == 1
    with pytest.raises(OptionError, match="not a folder"):
        Admin(tmp_path / "nowhere")


def test_encrypted_files_tell_nothing(tmp_path: Path) -> None:
    of = opened(tmp_path, key=KEY)
    fill(section_of(of), 1, 8 * BLOCK)
    assert of.flush(60)
    [path] = tmp_path.glob("*/*.kv")
    assert b"model" not in path.read_bytes()
    plain = opened(tmp_path)
    assert read(section_of(plain), 1, 8 * BLOCK)[2] == 0
    tag = tag_of(next(iter(chain(section_of(plain).namespace.root("salt"), text(1, 512)))))
    assert tag not in path.name
    assert [reason for _, reason, _ in Admin(tmp_path).verify()] == ["sealed"]
    assert not list(Admin(tmp_path, bytes.fromhex(KEY)).verify())
    other = Admin(tmp_path, bytes(32))
    assert [reason for _, reason, _ in other.verify()] == ["sealed"]


def test_what_will_not_do_is_refused(tmp_path: Path) -> None:
    for key in ("short", b"x" * 31, 5):
        with pytest.raises(OptionError, match="no key"):
            PrefixStore(tmp_path, 1 << 20, key=key)  # type: ignore[arg-type]
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="cannot be used"):
        PrefixStore(tmp_path / "file", 1 << 20)
    assert os.path.isfile(tmp_path / "file")


def test_keys_name_what_they_depend_on() -> None:
    one = Namespace("m", "i", "k", "c", (None,))
    assert one.root() != Namespace("m", "i", "other", "c", (None,)).root()
