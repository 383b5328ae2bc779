"""T5 on disk: each checkpoint is made once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

import kept

from ..seq2seq import Pair, make_hf


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    @cache
    def pair(name: str) -> Pair:
        folder = tmp_path_factory.mktemp("t5")
        hf = make_hf(name)
        hf.save_pretrained(folder)
        return Pair(name, folder, hf, kept.LLM(folder))

    return pair


@pytest.fixture
def pair(request: pytest.FixtureRequest, made: Callable[[str], Pair]) -> Pair:
    return made(request.param)
