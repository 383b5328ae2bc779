"""The engine of an LLM looked at, with a model and with files behind it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from laws.planted import drafting_freely

from kept import LLM, SamplingParams, machine
from kept.engine import AsyncEngine, Engine, Request, make_group

pytestmark = pytest.mark.skipif(
    not machine.NATIVE_AVAILABLE, reason="installed without a C++ compiler"
)
STORY = "def walk(top):\n    for name in names:\n        print(name)\n" * 9


def engine_of(llm: LLM) -> Engine:
    [engine] = llm._engines._recent.values()
    return engine


def test_what_was_read_from_files_says_so_and_goes_with_its_text(tmp_path: Path) -> None:
    first = LLM(prefix_store=tmp_path)
    first.generate([STORY, "class A:"], max_new_tokens=20)
    assert first.store is not None
    first.store.flush()
    assert not any(text.num_stored for text in engine_of(first).view().texts)
    second = LLM(prefix_store=tmp_path)
    [completion] = second.generate(STORY, max_new_tokens=1)
    read = completion.cached_from["store"]
    engine = engine_of(second)
    [text] = engine.view().texts
    assert text.num_stored == text.num_tokens >= read > 64
    [blocks] = engine.view().blocks
    assert blocks.stored.sum() == -(-text.num_stored // 64)
    assert engine.drop(text)
    assert second.store is not None
    second.store.flush()
    third = LLM(prefix_store=tmp_path)
    found = third.generate([STORY, "class A:\n    def"], max_new_tokens=1)
    assert [x.cached_from.get("store", 0) > 0 for x in found] == [False, False]
    left = third.store.ledger.files() if third.store is not None else ()
    assert all(str(file.path).startswith(str(tmp_path)) for file in left)


def test_dropping_what_waits_to_be_written_leaves_no_file(tmp_path: Path) -> None:
    llm = LLM(prefix_store=tmp_path)
    llm.generate(STORY, max_new_tokens=20)
    engine = engine_of(llm)
    assert [engine.drop(text) for text in engine.view().texts] == [True]
    assert llm.store is not None
    llm.store.flush()
    assert list(llm.store.ledger.files()) == []


def test_foreseen_characters_are_those_of_accepted_drafts() -> None:
    llm = LLM()
    llm.generate("a", max_new_tokens=1)
    engine = engine_of(llm)
    params = SamplingParams(max_new_tokens=120, prompt_lookup_num_tokens=8)
    resolved = params.resolve(vocab_size=llm.model.config.vocab_size)
    prompt = llm.tokenizer.encode(STORY)
    group = make_group(prompt, resolved, engine.rule, tokenizer=llm.tokenizer)
    text, foreseen = "", ""

    async def hear() -> None:
        nonlocal text, foreseen
        async with AsyncEngine(engine) as served:
            async for piece in served.generate(Request(group)):
                text += piece.text
                for begin, end in piece.foreseen:
                    assert 0 <= begin < end <= len(piece.text)
                    foreseen += piece.text[begin:end]

    with drafting_freely(engine, 1):
        asyncio.run(hear())
    [continuation] = group.results
    assert text == continuation.completion().text
    assert continuation.num_accepted > 10
    spelled = len(text) / continuation.history.num_generated
    assert 0.5 < len(foreseen) / (continuation.num_accepted * spelled) < 2
    [ended] = [note for note in engine.view().ended if note.generated_tokens == 120]
    assert ended.accepted_tokens == continuation.num_accepted
    assert sum(step.drafted for step in engine.view().steps) == ended.drafted_tokens
