"""Documents that an encoder has read are not read again, and nobody's bits tell."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kept import LLM, CacheFullError, GenerationInterrupted
from kept.cache import Cache, EncodedInput
from kept.engine import Engine, Event, inputs
from kept.models import EncoderDecoderLM

from .seq2seq import draw, make_hf

DOCUMENTS = [draw(n, seed=n).tolist() for n in (70, 9, 33, 9 + 64, 1)]
OTHER = draw(9, seed=77).tolist()  # as long as another
OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "samples": {"do_sample": True, "num_return_sequences": 3, "seed": 3},
    "beams": {"num_beams": 3},
    "static": {"cache_implementation": "static"},
    "sliding": {"cache_implementation": "sliding", "sliding_window": 9},
    "int8": {"kv_dtype": "int8"},
}
INPUT_BYTES = 2 * 2 * 3 * 12 * 4  # of a token: two layers, keys and values, three heads of 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("t5")
    make_hf("v1.1").save_pretrained(found)
    return found


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The inputs that encoders have read, pass after pass."""
    found: list[tuple[int, ...]] = []
    encode = EncoderDecoderLM.encode_input

    def counting(model: EncoderDecoderLM, tokens: Sequence[int], cache: Cache) -> EncodedInput:
        states = encode(model, tokens, cache)
        found.append(tuple(tokens))
        return states

    monkeypatch.setattr(EncoderDecoderLM, "encode_input", counting)
    return found


def answers(llm: LLM, documents: Sequence[list[int]], **options: Any) -> list[object]:
    found = llm.generate(documents, max_new_tokens=12, logprobs=2, **options)
    return [(one.token_ids, one.logprobs, one.score) for one in found]


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_document_is_read_once_and_bits_are_those_of_reading_it(
    kind: str, folder: Path, read: list[tuple[int, ...]]
) -> None:
    llm, options = LLM(folder, max_batch_size=3), OPTIONS[kind]
    fresh = answers(llm, DOCUMENTS, **options)
    assert read == [tuple(document) for document in DOCUMENTS]
    assert answers(llm, DOCUMENTS, **options) == fresh
    assert len(read) == len(DOCUMENTS)
    llm.forget()
    answers(llm, [DOCUMENTS[2], OTHER], **options)  # read among others than it is found by
    del read[:]
    assert answers(llm, DOCUMENTS, **options) == fresh
    assert len(read) == len(DOCUMENTS) - 1


def test_what_was_read_is_told(folder: Path, read: list[tuple[int, ...]]) -> None:
    llm = LLM(folder)
    first, twin = llm.generate([DOCUMENTS[0]] * 2, max_new_tokens=3)
    assert (first.cached_from, first.miss_reason) == ({}, "not read before")
    assert (twin.cached_from, twin.miss_reason) == ({"running": 70}, None)
    [again] = llm.generate([DOCUMENTS[0]], max_new_tokens=3, num_return_sequences=1)
    assert (again.cached_tokens, again.cached_from) == (70, {"tree": 70})
    [other] = llm.generate([DOCUMENTS[0]], max_new_tokens=3, kv_dtype="bfloat16")
    assert other.cached_tokens == 0, "stored as something else"
    assert len(read) == 2
    llm.forget()
    assert llm.generate([DOCUMENTS[0]], max_new_tokens=3)[0].cached_tokens == 0


def test_under_a_budget_the_oldest_goes(
    folder: Path, read: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    block = 64 * 2 * 2 * 3 * 12 * 4
    llm = LLM(folder, kv_memory=block + 150 * INPUT_BYTES)
    step, room = Engine._step, llm._engines.room

    def checked(engine: Engine) -> list[Event]:
        found = step(engine)
        assert room.limit is not None
        assert room.budget.taken <= room.limit
        return found

    monkeypatch.setattr(Engine, "_step", checked)
    for document in DOCUMENTS[:3]:
        answers(llm, [document])
    assert llm.generate([DOCUMENTS[1]], max_new_tokens=2)[0].cached_tokens == 9
    answers(llm, [DOCUMENTS[3]])  # of 73, beside 112 of 150
    found = [llm.generate([DOCUMENTS[i]], max_new_tokens=2)[0] for i in (1, 2, 0)]
    assert [one.cached_tokens for one in found] == [9, 33, 0]
    assert found[2].miss_reason == "evicted"
    llm.generate(DOCUMENTS, max_new_tokens=5)  # one after the other, as there is room
    with pytest.raises(CacheFullError, match=r"with an input .*kv_memory"):
        llm.generate([draw(151).tolist()], max_new_tokens=2)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_end_while_a_document_is_read(
    error: type[BaseException], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What had been read before is found, what was being read is not, and nothing stays taken."""
    llm = LLM(folder)
    fresh = answers(llm, DOCUMENTS)
    llm.forget()
    encode = EncoderDecoderLM.encode_input

    def failing(model: Any, tokens: Sequence[int], cache: Any) -> Any:
        found = encode(model, tokens, cache)
        if len(tokens) == 33:
            raise error("while it is read")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(EncoderDecoderLM, "encode_input", failing)
        with pytest.raises((GenerationInterrupted, ValueError)) as raised:
            answers(llm, DOCUMENTS)
    assert len(raised.value.completions) == len(DOCUMENTS)
    del raised
    gc.collect()
    assert llm._engines._inputs.num_findable == 2
    assert llm._engines.room.budget.taken == 79 * INPUT_BYTES
    assert answers(llm, DOCUMENTS) == fresh


def test_a_request_that_is_cancelled_before_its_turn_is_not_read(
    folder: Path, read: list[tuple[int, ...]]
) -> None:
    llm = LLM(folder)
    params, caching = llm.resolve(None, {"max_new_tokens": 4})
    generation = llm._begin(DOCUMENTS, params, caching)
    generation.begin()
    generation.advance()
    generation.engine.cancel(generation.requests[1])
    generation.run()
    assert [len(tokens) for tokens in read] == [70, 33, 73, 1]
    reasons = [one.finish_reason for one in generation.completions()]
    assert reasons == ["length", "interrupted", "length", "length", "length"]


def test_these_laws_can_fail(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where documents of a length are taken for one another."""
    fresh = answers(LLM(folder), [OTHER])
    monkeypatch.setattr(inputs, "_place", lambda tokens: [len(tokens)])
    llm = LLM(folder)
    answers(llm, [DOCUMENTS[1]])
    assert answers(llm, [OTHER]) != fresh
