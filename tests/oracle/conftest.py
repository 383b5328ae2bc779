"""The zoo on disk: each checkpoint is made once a session, when a test first asks for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

import kept

from .zoo import Pair, make_hf, settle


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    @cache
    def make(name: str) -> Pair:
        folder = tmp_path_factory.mktemp("checkpoint")
        hf = make_hf(name)
        hf.save_pretrained(folder)
        return Pair(name, folder, hf, kept.LLM(folder))

    return make


@pytest.fixture
def pair(request: pytest.FixtureRequest, made: Callable[[str], Pair]) -> Pair:
    """The checkpoint named by the test's parameter."""
    found = made(request.param)
    settle(found.hf)
    return found
