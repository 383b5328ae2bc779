"""Buffers in files: refused where they cannot be, bounded in memory, and the same bits."""

from __future__ import annotations

import errno
import mmap
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from kept import LLM, machine
from kept.batch import pack
from kept.cache import Cache, KVShape, Offloaded, make_cache, place
from kept.errors import CacheFullError, OptionError

FOLDER = Path(__file__).parent  # of the checkout: /tmp may lie in memory
SHAPES = (KVShape(2, 32),) * 8
PAGE = os.sysconf("SC_PAGE_SIZE")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone can do it")


def step(cache: Cache, count: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with cache.step(pack([[0] * count] * cache.num_slots)) as stores:
        for store in stores:
            rows = torch.randn(2, count * cache.num_slots, 2, 32, generator=generator)
            store.append(rows[0], rows[1]).stored()


def mapped_bytes(folder: Path) -> int:
    """Bytes of the folder's files that this process has in its page tables."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if not first.endswith(":"):
            ours = str(folder) in line
        elif ours and first == "Rss:":
            total += 1024 * int(line.split()[1])
    return total


def test_memory_stays_within_the_budget() -> None:
    layer = 2 * 2 * 512 * 32 * 4  # keys and values of 512 tokens
    cache = make_cache(SHAPES, place=Offloaded(FOLDER, 4 * layer))
    plain = make_cache(SHAPES)
    for seed, count in enumerate((400, 60, 1, 1, 1, 1, 1)):
        step(cache, count, seed)
        step(plain, count, seed)
        if seed:
            assert mapped_bytes(FOLDER) <= 4 * layer
    assert cache.num_bytes == plain.num_bytes == 8 * layer
    for index in range(8):
        for one, other in zip(cache.layer(index), plain.layer(index), strict=True):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])
    del cache, one


def test_an_encoders_input_counts_with_the_layer_in_front_of_it() -> None:
    shapes = (*SHAPES[:6], *(replace(shape, cross=True) for shape in SHAPES[:6]))
    layer = 2 * 2 * 512 * 32 * 4
    cache = make_cache(shapes, place=Offloaded(FOLDER, 4 * 2 * layer))
    plain = make_cache(shapes)
    for one in (cache, plain):
        generator = torch.Generator().manual_seed(0)
        for count in (500, 1, 1):
            new = count > 1
            batch = pack([[0] * count], sources=[[1] * 512] if new else None)
            with one.step(batch) as stores:
                for store, cross in zip(stores[:6], stores[6:], strict=True):
                    rows = torch.randn(2, count, 2, 32, generator=generator)
                    store.append(rows[0], rows[1]).stored()
                    rows = torch.randn(2, 512, 2, 32, generator=generator)
                    (cross.append(rows[0], rows[1]) if new else cross.read()).stored()
        assert one.num_bytes == 12 * layer
    assert mapped_bytes(FOLDER) <= 4 * 2 * layer
    for index in range(12):
        for found, expected in zip(cache.layer(index), plain.layer(index), strict=True):
            assert torch.equal(torch.stack(found), torch.stack(expected))
    tight = make_cache(shapes, place=Offloaded(FOLDER, 3 * layer // 2))
    with pytest.raises(CacheFullError, match="does not hold two layers"):
        begin(tight)
    assert (tight.lengths, tight.input_lengths, tight.cross.num_bytes) == ((0,), (0,), 0)


def begin(cache: Cache) -> None:
    with cache.step(pack([[0]], sources=[[1] * 512])) as stores:
        stores[0].append(*torch.zeros(2, 1, 2, 32))


def test_two_layers_must_fit() -> None:
    cache = make_cache(SHAPES, place=Offloaded(FOLDER, 4 * 2 * PAGE))
    step(cache, 16)
    held = cache.layer(0)[0][0].clone()
    with pytest.raises(CacheFullError, match="does not hold two layers of keys and values"):
        step(cache, 200)
    assert cache.lengths == (16,)
    assert torch.equal(cache.layer(0)[0][0], held)
    step(cache, 1)


def test_its_files_have_no_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "_file_system", lambda folder: "ext4")
    cache = make_cache(SHAPES, num_slots=2, place=Offloaded(tmp_path, 1 << 20))
    step(cache, 5)
    cache.repeat(2)
    twin = cache.fork()
    step(twin, 3)
    assert list(tmp_path.iterdir()) == []
    assert (cache.lengths, twin.lengths) == ((5,) * 4, (8,) * 4)
    assert str(tmp_path) in Path("/proc/self/maps").read_text()
    del cache, twin
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize(
    ("module", "call", "code", "message"),
    [
        (os, "posix_fallocate", errno.ENOSPC, r"has no room for .* of keys and values .*make room"),
        (tempfile, "TemporaryFile", errno.EMFILE, r"Too many open files.*ulimit -n"),
        (mmap, "mmap", errno.ENOMEM, r"Cannot allocate memory.*vm.max_map_count"),
    ],
    ids=["disk", "files", "mappings"],
)
def test_where_there_is_no_room(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, call: str, code: int, message: str
) -> None:
    cache = make_cache(SHAPES, place=Offloaded(FOLDER, 1 << 20))
    step(cache, 10)

    def full(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module, call, full)
    with pytest.raises(CacheFullError, match=message):
        step(cache, 100)
    monkeypatch.undo()
    assert cache.lengths == (10,)
    step(cache, 100)


@pytest.mark.parametrize(
    ("folder", "budget", "message"),
    [
        (FOLDER, 0, "offload_memory=0: give how many bytes"),
        (FOLDER, True, "offload_memory=True: give how many bytes"),
        (FOLDER / "nowhere", 1 << 20, "nowhere is no folder that can be written to"),
        (Path(__file__), 1 << 20, "is no folder that can be written to"),
        (Path("/proc"), 1 << 20, "/proc takes no files"),
    ],
)
def test_what_cannot_be(folder: Path, budget: int, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Offloaded(folder, budget)


def test_not_in_memory_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "_file_system", lambda folder: "tmpfs")
    with pytest.raises(OptionError, match="on a tmpfs, which lies in memory itself"):
        Offloaded(FOLDER, 1 << 20)


def test_the_file_system_of_a_folder() -> None:
    assert place._file_system(Path("/proc/self")) == "proc"
    assert place._file_system(FOLDER) not in ("", "proc")


def test_generating_with_half_the_memory() -> None:
    options = {"max_new_tokens": 24, "ignore_eos": True, "logprobs": 2, "do_sample": False}
    prompt = "def fibonacci(n):\n" * 40
    whole = LLM().generate(prompt, **options)
    llm = LLM(offload_folder=FOLDER, offload_memory=whole[0].cache_bytes // 2)
    found = llm.generate(prompt, **options)
    assert found[0].text == whole[0].text
    if machine.NATIVE_AVAILABLE:
        assert found[0].logprobs == whole[0].logprobs
    for wrong in ({"offload_folder": FOLDER}, {"offload_memory": 1 << 20}):
        with pytest.raises(OptionError, match="go together"):
            LLM(**wrong)  # type: ignore[arg-type]
