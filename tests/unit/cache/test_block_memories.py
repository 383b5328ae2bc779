"""What is reserved for blocks where the system does not grant what is asked for."""

import gc
import weakref

import pytest
import torch

from kept.cache import KVShape, memory
from kept.cache.block_memories import block_memories
from kept.cache.block_memory import BlockMemory
from kept.ops import find_kv_codec


def reserve() -> list[BlockMemory]:
    return block_memories([[KVShape(1, 2)]], find_kv_codec("float32"), torch.device("cpu"), 1 << 20)


def test_garbage_goes_before_blocks_do(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit of address space that only what an old model reserved stands in the way of."""

    class Model:
        itself: object

    old, reserved = Model(), memory.reserved
    old.itself, alive = old, weakref.ref(old)
    monkeypatch.setattr(memory, "reserved", lambda n: reserved(n) if alive() is None else None)
    gc.disable()
    try:
        del old
        [found] = reserve()
    finally:
        gc.enable()
    assert not caplog.text
    assert found.pool.num_blocks == reserve()[0].pool.num_blocks
