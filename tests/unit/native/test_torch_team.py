"""Attention between operations of torch, on torch's own threads."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kept import _native
from kept.batch import pack
from kept.cache import KVShape, make_cache
from kept.ops import AttentionSpec, attend_stored, use_threads
from kept.ops.views import StoredView

from .test_pool import in_threads

SHAPE, LENGTH = KVShape(2, 24), 3000


@pytest.fixture(scope="module")
def attended() -> tuple[Tensor, StoredView]:
    """Queries (1, H, D), and what they attend: long enough for threads to share it."""
    generator = torch.Generator().manual_seed(0)
    cache = make_cache([SHAPE], kv_dtype="int8")
    k, v = torch.randn(2, LENGTH, 2, 24, generator=generator)
    with cache.step(pack([[0] * LENGTH])) as (store,):
        store.append(k, v)
    with cache.step(pack([[0]], past=[LENGTH])) as (store,):
        view = store.append(k[:1], v[:1])
    assert isinstance(view, StoredView)
    return torch.randn(1, 6, 24, generator=generator), view


def attend(attended: tuple[Tensor, StoredView], threads: int) -> Tensor:
    """On so many threads, after an operation of torch has set its own going."""
    use_threads(threads)
    torch.ones(300, 300) @ torch.ones(300, 300)
    return attend_stored(*attended, AttentionSpec(0.2))


@pytest.mark.skipif(
    not list((Path(torch.__file__).parent / "lib").glob("libgomp*")),
    reason=f"torch brings no GNU OpenMP on {sys.platform}",
)
def test_torch_brings_threads() -> None:
    (library,) = (Path(torch.__file__).parent / "lib").glob("libgomp*")
    assert _native.find_torch_team(str(library))


def test_threads_change_no_bit(attended: tuple[Tensor, StoredView]) -> None:
    alone = attend(attended, 1)
    assert all(torch.equal(attend(attended, threads), alone) for threads in (2, 3, 5, 2))


def test_several_callers_at_once(attended: tuple[Tensor, StoredView]) -> None:
    alone = attend(attended, 1)
    use_threads(2)
    found: list[Tensor] = []

    def work() -> None:
        for _ in range(20):
            found.append(attend_stored(*attended, AttentionSpec(0.2)))

    in_threads(*[work] * 4)
    assert len(found) == 80
    assert all(torch.equal(x, alone) for x in found)


def test_a_forked_child_has_threads_of_its_own(attended: tuple[Tensor, StoredView]) -> None:
    expected = attend(attended, 2)
    child = os.fork()
    if child == 0:
        found = attend_stored(*attended, AttentionSpec(0.2))
        os._exit(0 if torch.equal(found, expected) else 1)
    deadline = time.monotonic() + 30
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("the child hangs")
        time.sleep(0.01)
    assert done[1] == 0
