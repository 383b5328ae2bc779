"""How much memory keys and values may take, and what an LLM's keywords were once called."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from kept import LLM, OptionError
from kept.llm import memory
from kept.llm.memory import read_kv_memory
from kept.machine import NATIVE_AVAILABLE, describe_machine

GIB = 1 << 30
needs_native = pytest.mark.skipif(not NATIVE_AVAILABLE, reason="installed without a C++ compiler")


@pytest.fixture(autouse=True)
def _of_ten_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = dataclasses.replace(describe_machine(), total_memory=10 * GIB)
    monkeypatch.setattr(memory, "describe_machine", lambda: machine)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (None, None),
        (1, 1),
        ("4096", 4096),
        ("2GiB", 2 * GIB),
        ("1.5 GB", 1_500_000_000),
        ("40%", 4 * GIB),
        (" 2.5 % ", GIB // 4),
        ("100%", 10 * GIB),
        (10 * GIB, 10 * GIB),
    ],
)
def test_sizes(asked: int | str | None, expected: int | None) -> None:
    assert read_kv_memory(asked, None) == read_kv_memory(asked, "cpu:0") == expected


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        *[(value, f"kv_memory={value!r} is a .*; give bytes") for value in (True, 1.5, b"1")],
        *[(value, f"kv_memory={value!r} is no size; give") for value in ("much", "-1", "")],
        *[(value, f"kv_memory={value!r} holds no token") for value in (0, -1, "0", "0%", "0.2B")],
        ("101%", "more than all of it; give at most 100%"),
        ("11GiB", "kv_memory='11GiB' is more than this machine's memory of 10.0 GiB; give less"),
        (11 * GIB, "more than this machine's memory"),
        ("9" * 400, "is no size"),
    ],
)
def test_what_is_no_budget(asked: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        read_kv_memory(asked, None)


def test_more_slots_than_a_cache_has_are_no_matter_of_memory() -> None:
    with pytest.raises(OptionError, match=r"^max_batch_size: 1,048,577 slots are more than"):
        LLM(max_batch_size=2**20 + 1)


def test_a_share_is_of_the_memory_that_keys_lie_in() -> None:
    assert read_kv_memory("11GiB", "cuda:1") == 11 * GIB
    with pytest.raises(OptionError, match="'40%' would be a share of cuda:1; give bytes"):
        read_kv_memory("40%", "cuda:1")


def test_a_machine_of_unknown_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = dataclasses.replace(describe_machine(), total_memory=None)
    monkeypatch.setattr(memory, "describe_machine", lambda: machine)
    assert read_kv_memory("11TiB", None) == 11 << 40
    with pytest.raises(OptionError, match="memory is not known; give bytes"):
        read_kv_memory("40%", None)


def test_an_llm_holds_its_budget() -> None:
    assert LLM(kv_memory="40%").kv_memory == 4 * GIB


@needs_native
def test_a_budget_that_holds_no_block_of_what_is_asked() -> None:
    with pytest.raises(OptionError, match=r"kv_memory is too little: .* take 196,608 bytes; give"):
        LLM(kv_memory=1024).generate([[1]])


def test_keywords_that_an_llm_does_not_have() -> None:
    with pytest.raises(OptionError, match=r"^kv_folder is no option of LLM; pass offload_folder"):
        LLM(kv_folder=".", kv_memory=1)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"^LLM has no folder; there are .*offload_folder"):
        LLM(folder=".")  # type: ignore[arg-type]
