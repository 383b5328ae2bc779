"""Entries that blocks begin with, copied within buffers."""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Sequence
from math import prod

import pytest
import torch
from torch import Tensor

from kept.cache import KVShape
from kept.cache.block_copies import copy_entries, entries_of
from kept.cache.block_memories import block_memories
from kept.cache.layout import Copy
from kept.cache.place import InMemory
from kept.ops import find_kv_codec


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


class Watched(InMemory):
    """What its buffers lie in can be seen to go."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.made: list[weakref.ref[mmap.mmap]] = []

    def zeros(self, size: Sequence[int], dtype: torch.dtype) -> Tensor:
        lies_in = mmap.mmap(-1, prod(size) * dtype.itemsize)
        self.made.append(weakref.ref(lies_in))
        return torch.frombuffer(lies_in, dtype=dtype).view(*size)


def test_buffers_that_grow_leave_nothing_behind() -> None:
    place, codec = Watched(), find_kv_codec("float32")
    [found] = block_memories([[KVShape(1, 2)]], codec, torch.device("cpu"), 1 << 20, place)
    blocks = found.take(2)
    found.copy_blocks([Copy(0, 1, 3)])
    blocks += found.take(2)
    assert [each() is None for each in place.made[-4:]] == [True, True, False, False]
    found.buffers[0][0][0] = 7.0
    found.copy_blocks([Copy(0, 3, 5)])
    assert (found.buffers[0][0][3, :, :5] == 7.0).all()
