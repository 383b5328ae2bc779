"""Matrices packed out of files: the bits of memory, and files that are not what they were."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kept import machine
from kept.errors import WeightsError
from kept.ops import PackedMatrix, pack_matrix, use_threads
from kept.ops.packed import pack_blocks
from kept.ops.stored_rows import StoredMatrix, StoredRows, pack_stored

pytestmark = pytest.mark.skipif(not machine.NATIVE_AVAILABLE, reason="the native module packs")
gates = pytest.mark.parametrize("gated", [False, True])
ROW_BYTES = {"fp32": 4, "bf16": 2, "q8_0": 34, "q4_0": 18}


def stored(folder: Path, rows: Tensor, cuts: tuple[int, ...]) -> list[StoredRows]:
    """Rows (N, bytes) in as many files, behind some bytes of something else."""
    parts = []
    for i, part in enumerate(rows.tensor_split(cuts)):
        path = folder / f"{i}.bin"
        path.write_bytes(bytes(i + 3) + part.numpy().tobytes())
        parts.append(StoredRows(path, f"part {i}", i + 3, len(part)))
    return parts


def rows_of(format: str, num_out: int, num_in: int) -> Tensor:
    """Bytes (out, row bytes) of numbers, or of blocks that panels hold."""
    count = num_in if format in ("fp32", "bf16") else num_in // 32
    rows = torch.randint(256, (num_out, count, ROW_BYTES[format]), dtype=torch.uint8)
    if format in ("q8_0", "q4_0"):
        rows[..., 1] &= 0x3F
        rows[..., 2:][rows[..., 2:] == 128] = 127
    return rows.flatten(1)


def in_memory(format: str, rows: Tensor, num_in: int, gated: bool) -> PackedMatrix:
    if format in ("q8_0", "q4_0"):
        return pack_blocks(format, (len(rows), num_in), [(0, rows)], gated=gated)
    numbers = rows.view(torch.float32 if format == "fp32" else torch.bfloat16)
    return pack_matrix(numbers, format, gated=gated)


@gates
@pytest.mark.parametrize("format", ROW_BYTES)
def test_the_same_bytes_as_from_memory(format: str, gated: bool, tmp_path: Path) -> None:
    """Whatever the rows of a part, so that they begin and end within panels and strips."""
    whole = format in ("q8_0", "q4_0")
    for num_out, num_in in (
        (2, 32),
        (34, 64),
        (130, 352),
        (600, 1024),
        *(() if whole else [(66, 45)]),
    ):
        rows = rows_of(format, num_out, num_in)
        for cuts in ((), (num_out // 2,), (num_out // 3, 1 + num_out // 2)):
            parts = stored(tmp_path, rows, cuts)
            found = pack_stored(format, (num_out, num_in), parts, gated=gated)
            expected = in_memory(format, rows, num_in, gated)
            assert torch.equal(found.data, expected.data), (num_out, num_in, cuts)
            if whole:
                assert found.group_scales is not None
                assert expected.group_scales is not None
                kinds = (x.group_scales.view(torch.int16) for x in (found, expected))
                assert torch.equal(*kinds)


@pytest.mark.parametrize("format", ["bf16", "q8_0"])
def test_a_file_that_has_changed(format: str, tmp_path: Path) -> None:
    rows = rows_of(format, 100, 64)
    parts = stored(tmp_path, rows, (40,))
    path = parts[1].path
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="ends within tensor 'part 1'"):
        pack_stored(format, (100, 64), parts)
    path.unlink()
    with pytest.raises(WeightsError, match="cannot be read: No such file"):
        StoredMatrix(format, 100, 64, tuple(parts)).pack(gated=False, bias=None)
    path.mkdir()
    with pytest.raises(WeightsError, match="cannot be read"):
        pack_stored(format, (100, 64), parts)


@gates
def test_a_row_that_no_panel_holds(gated: bool, tmp_path: Path) -> None:
    for row in (0, 37, 129):
        rows = rows_of("q8_0", 130, 64)
        rows[row, 40] = 128
        parts = stored(tmp_path, rows, (64,))
        part = 0 if row < 64 else 1
        with pytest.raises(WeightsError, match=f"row {row} of a matrix .* 'part {part}' in"):
            pack_stored("q8_0", (130, 64), parts, gated=gated)


@contextmanager
def memory_left(size: int) -> Iterator[None]:
    """The process may take `size` bytes more than it has."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_memory_that_ends(tmp_path: Path) -> None:
    """Where there is none left to read rows into, the error says so, and threads go on."""
    path, num_in = tmp_path / "rows.bin", 400_000
    path.touch()
    os.truncate(path, 32 * num_in * 4)
    parts = [StoredRows(path, "rows", 0, 32)]
    use_threads(2)
    try:
        with memory_left(32 * num_in * 4 * 3 // 2), pytest.raises(MemoryError):
            pack_stored("fp32", (32, num_in), parts)
        assert pack_stored("fp32", (32, 64), parts).data.count_nonzero() == 0
    finally:
        use_threads()
