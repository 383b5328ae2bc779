"""Entries that blocks begin with, copied within buffers."""

from __future__ import annotations

import pytest
import torch

from kept.cache.block_copies import copy_entries, entries_of
from kept.cache.layout import Copy


@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("copies", [[Copy(0, 3, 1)], [Copy(1, 0, 64), Copy(1, 2, 33)]])
def test_blocks_begin_as_others_do(copies: list[Copy], dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    sizes = [(6, 2, 64, 8), (6, 3, 64, 40)]
    buffers = [torch.randint(-99, 99, size, generator=draw).to(dtype) for size in sizes]
    before = [buffer.clone() for buffer in buffers]
    copy_entries([entries_of(buffer) for buffer in buffers], copies)
    for found, expected in zip(buffers, before, strict=True):
        for source, copied, count in copies:
            expected[copied, :, :count] = expected[source, :, :count].clone()
        assert torch.equal(found, expected)
