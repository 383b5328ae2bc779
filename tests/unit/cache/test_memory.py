"""Buffers in memory: as many bytes as are said, one's own, and gone when they are dropped."""

from __future__ import annotations

import copy
import errno
import gc
import json
import mmap
import os
import pickle
import subprocess
import sys

import pytest
import torch

from kept.cache import memory
from kept.cache.memory import MAPPED
from kept.errors import CacheFullError

CPU = torch.device("cpu")
SIZE = (3, MAPPED // 4, 2)
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.uint8])
@pytest.mark.parametrize("size", [(0, 5), (2, 3), SIZE], ids=str)
def test_zeros_of_one_s_own(size: tuple[int, ...], dtype: torch.dtype) -> None:
    x = memory.zeros(size, dtype, CPU)
    assert (x.shape, x.dtype, x.is_contiguous()) == (size, dtype, True)
    assert x.untyped_storage().nbytes() == x.nbytes
    assert not x.any()
    x += 3
    assert (x == 3).all()
    assert not memory.zeros(size, dtype, CPU).any()


def test_nothing_global_decides_on_it() -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.device("meta"):
            x = memory.zeros(SIZE, torch.bfloat16, CPU)
    finally:
        torch.set_default_dtype(before)
    assert (x.dtype, x.device) == (torch.bfloat16, CPU)


def test_a_view_outlives_the_rest() -> None:
    x = memory.zeros(SIZE, torch.float32, CPU)
    x[1] = 7
    view, numbers = x[1, 5:9], x[1].numpy()
    del x
    gc.collect()
    others = [memory.zeros(SIZE, torch.float32, CPU).fill_(1) for _ in range(4)]
    assert (view == 7).all()
    assert (numbers == 7).all()
    del others


def test_copies_are_tensors_as_any() -> None:
    x = memory.zeros(SIZE, torch.float32, CPU)
    x[2] = 5
    for twin in (copy.deepcopy(x), pickle.loads(pickle.dumps(x)), x.clone()):
        assert torch.equal(twin, x)
        twin += 1
        assert int(x.max()) == 5
    with pytest.raises(RuntimeError, match="not resizable"):
        x.resize_(2 * x.numel())


@linux
def test_a_forked_child_has_its_own() -> None:
    x = memory.zeros(SIZE, torch.float32, CPU)
    child = os.fork()
    if child == 0:
        x.numpy()[:] = 9
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert not x.any()


def test_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CacheFullError, match=r"no room in memory for 1024.0 TiB more of keys"):
        memory.zeros((1 << 50,), torch.uint8, CPU)
    with pytest.raises(CacheFullError, match="no room in memory"):
        memory.zeros((1 << 40, 1 << 40), torch.uint8, CPU)

    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.EBADF, "something else")

    monkeypatch.setattr(mmap, "mmap", broken)
    if sys.platform == "linux":
        with pytest.raises(OSError, match="something else"):
            memory.zeros(SIZE, torch.float32, CPU)


@linux
@pytest.mark.parametrize("has_huge_pages", [True, False])
def test_reserved_memory(has_huge_pages: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros that are not there yet; numbers stay what they are in larger pages, and go when they
    are not needed."""
    if not has_huge_pages:
        monkeypatch.setattr(memory, "_COLLAPSE", 9999)
    found = memory.reserved(1 << 36)
    assert found is not None
    x = torch.frombuffer(found, dtype=torch.float32)
    numbers = torch.arange(5 << 18, dtype=torch.float32)
    before = resident()
    x[: 5 << 18] = numbers
    memory.enlarge(found, 0, 5 << 20)
    filled = resident()
    assert abs(filled - before - (5 << 20)) < 2 << 20
    assert torch.equal(x[: 5 << 18], numbers)
    memory.forget(found, 100, (4 << 20) + 100)
    assert x[0] == 0  # as it was
    assert x[1024] == 0
    assert x[1 << 20] == 1 << 20
    assert filled - resident() > 2 << 20
    del x
    assert memory.reserved(1 << 60) is None


def resident() -> int:
    """Bytes that this process has in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE


def test_where_the_kernel_is_older(monkeypatch: pytest.MonkeyPatch) -> None:
    class Older(mmap.mmap):
        def madvise(self, *_: int) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(mmap, "mmap", Older)
    assert not memory.zeros(SIZE, torch.float32, CPU).any()


# A process of its own: what a heap holds depends on all that was done before.
RESIDENT = """
import gc, json, torch
from kept.batch import pack
from kept.cache import KVShape, make_cache

def resident():
    # bytes in memory of mappings without a name, and of the heap
    found, name = {"": 0, "[heap]": 0}, ""
    for line in open("/proc/self/smaps"):
        first, *rest = line.split()
        if not first.endswith(":"):
            name = rest[4] if len(rest) > 4 else ""
        elif first in ("Rss:", "Swap:") and name in found:
            found[name] += 1024 * int(rest[0])
    return found[""], found["[heap]"]

def filled(num_slots):
    cache = make_cache([KVShape(2, 64)] * 4, kind, num_slots=num_slots, kv_dtype=codec, **options)
    for slot in range(num_slots):
        for _ in range(2):
            with cache.step(pack([[0] * 512], slots=[slot])) as stores:
                for store in stores:
                    store.append(rows, rows)
    for _ in range(3 if not cache.pools else 64):  # a whole block
        with cache.step(pack([[0]] * num_slots)) as stores:
            for store in stores:
                store.append(rows[:num_slots], rows[:num_slots])
    return cache

torch.set_num_threads(1)
rows = torch.randn(512, 2, 64)
for kind, codec, options, num_slots in CASES:
    filled(2).reorder([1, 0])  # whatever a first call brings
    gc.collect()
    before = resident()
    cache, found = filled(num_slots), []

    def look(state, said):
        if said:
            cache.release()
        mapped, heap = (now - then for now, then in zip(resident(), before))
        found.append((kind, codec, state, said, mapped, heap))

    look("filled", cache.num_bytes)
    cache.reorder([*range(1, num_slots), 0])
    look("moved", cache.num_bytes)
    twin = cache.fork()
    twin.truncate(twin.lengths[0] - 1)
    look("forked", cache.num_bytes + (twin.num_bytes if not cache.pools else 0))
    del twin
    cache.select([0])
    cache.repeat(num_slots)
    look("selected", cache.num_bytes)
    del cache
    look("dropped", 0)
    print(json.dumps(found))
"""
CASES = [
    ("dynamic", "float32", {}, 8),
    ("static", "int8", {"max_cache_len": 1100}, 32),
    ("sliding", "float32", {"sliding_window": 512}, 16),
    ("sliding", "k8v4", {"sliding_window": 512}, 64),
    ("evicting", "bfloat16", {"budget": 512, "grain": 512}, 16),
]
# Of the heap's end that malloc does not give back: twice what was the largest block so far.
HEAP = 24 << 20


@linux
def test_what_is_resident_is_what_is_said() -> None:
    script = RESIDENT.replace("CASES", repr(CASES))
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(lines) == len(CASES)
    for found in lines:
        at_rest = found[0][3]
        for *_, said, mapped, heap in found:
            assert abs(mapped - said) <= 0.03 * max(said, at_rest), found
            assert heap <= HEAP, found
