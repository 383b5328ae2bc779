"""Encoder-decoders on disk: each checkpoint is made once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import kept

from .checkpoints import Pair, make_hf


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Pair]:
    @cache
    def checkpoint(name: str) -> tuple[Path, Any]:
        folder = tmp_path_factory.mktemp("seq2seq")
        hf = make_hf(name)
        hf.save_pretrained(folder)
        return folder, hf

    @cache
    def pair(name: str, backend: str) -> Pair:
        folder, hf = checkpoint(name)
        return Pair(name, folder, hf, kept.LLM(folder))

    return pair


@pytest.fixture
def made(make: Callable[[str, str], Pair]) -> Callable[[str], Pair]:
    """Makes the checkpoint of a name, once a session; on the kernels where there are any."""
    return lambda name: make(name, "auto")


@pytest.fixture
def pair(request: pytest.FixtureRequest, made: Callable[[str], Pair]) -> Pair:
    """The checkpoint named by the test's parameter."""
    return made(request.param)


@pytest.fixture
def pair_on(request: pytest.FixtureRequest, make: Callable[[str, str], Pair], backend: str) -> Pair:
    """The same on each of the backends, one after the other."""
    found = make(request.param, backend)
    assert (found.model.native is not None) == (backend == "native")
    return found
