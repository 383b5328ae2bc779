"""The zoo on disk: each checkpoint is made once a session, when a test first asks for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from transformers import PreTrainedModel

import kept
import kept.machine

from .talker import make_talker
from .zoo import Pair, make_hf, settle

BACKENDS = ("native", "reference")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the operations run on; every test that compares a model runs on both."""
    if request.param == "native" and not kept.machine.NATIVE_AVAILABLE:
        pytest.skip("installed without a C++ compiler")
    monkeypatch.setenv("KEPT_OPS", request.param)
    return request.param


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Pair]:
    @cache
    def checkpoint(name: str) -> tuple[Path, PreTrainedModel]:
        folder = tmp_path_factory.mktemp("checkpoint")
        hf = make_hf(name)
        hf.save_pretrained(folder)
        return folder, hf

    @cache
    def pair(name: str, backend: str) -> Pair:
        folder, hf = checkpoint(name)
        return Pair(name, folder, hf, kept.LLM(folder))

    return pair


@pytest.fixture
def made(make: Callable[[str, str], Pair], backend: str) -> Callable[[str], Pair]:
    """Makes the checkpoint of a name, once a session for each backend."""
    return lambda name: make(name, backend)


@pytest.fixture
def pair(request: pytest.FixtureRequest, made: Callable[[str], Pair]) -> Pair:
    """The checkpoint named by the test's parameter."""
    found = made(request.param)
    settle(found.hf)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with a tokenizer and a chat template, without a padding token as many are."""
    folder = tmp_path_factory.mktemp("talker")
    make_talker(folder, "llama")
    return folder


@pytest.fixture(scope="module")
def llm(folder: Path) -> kept.LLM:
    """That model, loaded."""
    return kept.LLM(folder)
