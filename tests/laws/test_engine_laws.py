"""One LLM, whatever runs beside, before and after in its engine: each text is what it is alone."""

from __future__ import annotations

import pytest

from kept import LLM, CacheFullError, OptionError, machine
from kept.engine import Engine

from .test_thread_laws import in_threads

pytestmark = pytest.mark.skipif(
    not machine.NATIVE_AVAILABLE, reason="installed without a C++ compiler"
)
STORY = "def walk(top):\n    for name in names:\n        print(name)\n" * 9
OPTIONS = {"max_new_tokens": 40, "do_sample": True, "top_k": 20, "logprobs": 1}


@pytest.fixture(scope="module")
def alone() -> dict[int, object]:
    """What some prompts come to, each the only one a model has ever read."""
    llm, found = LLM(), {}
    for i in range(6):
        llm.forget()
        [found[i]] = texts(llm, i)
    return found


def prompt(i: int) -> str:
    return STORY[: 120 + 50 * (i % 3)] + f"# {i // 3}"


def texts(llm: LLM, *of: int) -> list[object]:
    found = []
    for i in of:
        [one] = llm.generate(prompt(i), seed=i, **OPTIONS)
        found.append((one.token_ids, one.text, one.logprobs))
    return found


def engine_of(llm: LLM) -> Engine:
    params, caching = llm.resolve(None, OPTIONS)
    return llm._engines.find(caching, params, [1], 1)


def test_threads_in_a_pool_that_holds_a_part_of_them(alone: dict[int, object]) -> None:
    llm = LLM(kv_memory="2MiB", prefill_chunk=64)
    engine = engine_of(llm)
    found: dict[int, object] = {}

    def work(first: int) -> None:
        for i in (first, (first + 3) % 6):
            [found[i]] = texts(llm, i)

    in_threads(*(lambda i=i: work(i) for i in range(6)))  # type: ignore[misc]
    assert found == alone
    after = engine.snapshot()
    assert after.counters.parked + after.counters.evicted_blocks > 0
    assert after.counters.cached_tokens.total() > 0
    assert (after.waiting, after.running) == (0, 0)
    llm.forget()
    blocks = engine.snapshot().blocks
    assert blocks is not None
    assert (blocks.findable, blocks.held) == (0, 0)
    assert texts(llm, 0) == [alone[0]]


def test_a_request_beyond_kv_memory_is_refused() -> None:
    llm = LLM(kv_memory="1MiB")
    with pytest.raises(CacheFullError, match=r"blocks of 64 tokens.*kv_memory"):
        llm.generate(prompt(0), max_new_tokens=400)
    with pytest.raises(OptionError, match="holds no block"):
        LLM(kv_memory=100).generate("a", max_new_tokens=1)
