"""Every kind of cache under one budget: it is never passed, every text is what it is alone, and who
cannot have room waits for it and no longer than it takes."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from kept import LLM, CacheFullError, CacheOptions, SamplingParams, machine
from kept.blocks import BlockPool
from kept.engine import ContextRule, Continuation, Engine, Event, Request, Room, SampleGroup
from kept.llm import caching
from kept.llm.caching import slot_caches
from kept.sampling import TokenHistory

from .test_thread_laws import in_threads
from .tiny import VOCAB, native_model

pytestmark = pytest.mark.skipif(
    not machine.NATIVE_AVAILABLE, reason="installed without a C++ compiler"
)
STORY = "def walk(top):\n    for name in names:\n        print(name)\n" * 3
KINDS: dict[str, dict[str, Any]] = {
    "dynamic": {},
    "int8": {"kv_dtype": "int8"},
    "static": {"cache_implementation": "static"},
    "sliding": {"cache_implementation": "sliding", "sliding_window": 16, "num_sinks": 2},
    "evicting": {"cache_implementation": "evicting", "kv_budget": 48},
    "slides": {"overflow": "slide"},
    "beams": {"num_beams": 2},
    "wide": {"num_return_sequences": 3},  # than the LLM has slots
}
OPTIONS = {"max_new_tokens": 12, "do_sample": True, "top_k": 20, "logprobs": 1}
LIMIT = 2 << 20


def texts(llm: LLM, kind: str, i: int) -> object:
    prompts = [STORY[: 60 + 30 * i], f"# {i}"][: 1 + i % 2]
    found = llm.generate(prompts, seed=i, **{**OPTIONS, **KINDS[kind]})
    return [(one.token_ids, one.logprobs) for one in found]


@pytest.fixture(scope="module")
def alone() -> dict[tuple[str, int], object]:
    found, llm = {}, LLM()
    for kind in KINDS:
        for i in range(3):
            llm.forget()
            found[kind, i] = texts(llm, kind, i)
    return found


@pytest.fixture
def bounded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Holds after each step that caches take no more than is reserved, nor that than there is."""
    engines: weakref.WeakSet[Engine] = weakref.WeakSet()
    most = [0]
    made, step = Engine.__init__, Engine._step

    def init(engine: Engine, *given: Any, **named: Any) -> None:
        made(engine, *given, **named)
        engines.add(engine)

    def checked(engine: Engine) -> list[Event]:
        found = step(engine)
        with engine.model.running():
            room = engine.room
            alike = [each for each in list(engines) if each.room is room]
            held = sum(each.cache.num_bytes for each in alike if each.cache is not None)
            assert room.limit is not None
            assert held <= room.budget.taken <= room.limit
            most[0] = max(most[0], room.budget.taken)
        return found

    monkeypatch.setattr(Engine, "__init__", init)
    monkeypatch.setattr(Engine, "_step", checked)
    return most


def test_kinds_in_threads_stay_within_the_budget(
    alone: dict[tuple[str, int], object], bounded: list[int]
) -> None:
    """Each of them in turn, begun at another one by every thread, where a few have room at once."""
    llm = LLM(kv_memory=LIMIT, max_batch_size=2, prefill_chunk=40)
    kinds, found = list(KINDS), dict[tuple[str, int], object]()

    def work(i: int) -> None:
        for shift in range(len(kinds)):
            kind = kinds[(3 * i + shift) % len(kinds)]
            found[kind, i] = texts(llm, kind, i)

    in_threads(*(lambda i=i: work(i) for i in range(3)))  # type: ignore[misc]
    assert [key for key in alone if found[key] != alone[key]] == []
    assert bounded[0] > LIMIT // 2
    gc.collect()  # engines of a call are cycles
    llm.forget()
    assert llm._engines.room.budget.taken == 0


def reserve_half(patch: pytest.MonkeyPatch) -> None:
    whole = caching.most_slot_bytes
    patch.setattr(caching, "most_slot_bytes", lambda *given: whole(*given) // 2)


def reserve_no_blocks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(BlockPool, "draw_on", lambda *_: None)


@pytest.mark.parametrize("broken", [reserve_half, reserve_no_blocks])
def test_the_bound_can_be_passed(
    broken: Callable[[pytest.MonkeyPatch], None],
    bounded: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken(monkeypatch)
    llm = LLM(kv_memory=LIMIT)

    def law() -> None:
        for kind in ("dynamic", "static"):
            llm.forget()
            texts(llm, kind, 2)

    with pytest.raises(AssertionError):
        law()


def test_what_could_never_fit_is_refused_at_the_door() -> None:
    llm = LLM(kv_memory="300KiB", max_batch_size=2)
    for kind in KINDS:
        refuse(llm, kind)


def test_what_is_refused_leaves_the_conversation_as_it_was() -> None:
    llm = LLM(kv_memory="600KiB", max_batch_size=1)
    ring = {"cache_implementation": "sliding", "sliding_window": 400}
    messages = [{"role": "user", "content": "Once"}]
    answer = llm.chat(messages, max_new_tokens=8, **ring)
    with pytest.raises(CacheFullError, match="kv_memory"):
        llm.chat([{"role": "user", "content": "Twice"}], max_new_tokens=800, **ring)
    again = llm.chat(messages, max_new_tokens=8, **ring)
    assert again.cached_tokens == again.prompt_tokens - 1
    assert again.text == answer.text


def refuse(llm: LLM, kind: str) -> None:
    kept = {"sliding_window": 400} if kind == "sliding" else {}
    kept |= {"kv_budget": 400} if kind == "evicting" else {}
    options = {**OPTIONS, **KINDS[kind], **kept, "max_new_tokens": 400}
    with pytest.raises(CacheFullError, match=r"a request of \d sequences.*kv_memory"):
        llm.generate(STORY, **options)
    assert llm.generate("a", max_new_tokens=2)[0].finish_reason == "length"


@pytest.mark.parametrize("kind", ["int8", "static", "wide"])
def test_who_waits_has_those_go_on_who_have_the_room(
    kind: str, alone: dict[tuple[str, int], object]
) -> None:
    """A stream that its own thread has left for another text: whoever waits takes its steps."""
    llm = LLM(kv_memory=LIMIT, max_batch_size=2)
    heard = "".join(llm.stream(STORY, max_new_tokens=90, ignore_eos=True))
    stream = iter(llm.stream(STORY, max_new_tokens=90, ignore_eos=True))
    pieces = [next(stream)]
    assert texts(llm, kind, 2) == alone[kind, 2]
    assert "".join([*pieces, *stream]) == heard


@pytest.mark.parametrize("window", [10, 40])
def test_a_text_that_runs_on_past_the_context_takes_what_is_reserved(window: int) -> None:
    model, room = native_model("llama", "bf16"), Room(1 << 20)
    rule = ContextRule(40, slides=True, in_place=True)
    options = CacheOptions(cache_implementation="sliding", sliding_window=window).resolve()
    engine = Engine(model, slot_caches(model, options, rule, None, None, 512), rule, room=room)
    text = Continuation(
        TokenHistory([1, 2, 3]),
        SamplingParams(max_new_tokens=150).resolve(vocab_size=VOCAB),
        seed=0,
        limit=153,
        prompt_index=0,
        index=0,
        tokenizer=None,
    )
    engine.submit(Request(SampleGroup([text])))
    while engine.has_work:
        engine.step()
        assert engine.cache is not None
        assert engine.cache.num_bytes <= room.budget.taken
    assert text.history.num_generated == 150


def test_calls_of_a_kind_share_an_engine_and_its_slots() -> None:
    """Also where nobody remembers the engine, as long as a call is in it."""
    llm = LLM(max_batch_size=4)
    for kind in ("static", "sliding", "evicting"):
        params, caching = llm.resolve(None, {**OPTIONS, **KINDS[kind]})
        engine = llm._engines.find(caching, params, [30], 1)
        in_threads(*[lambda kind=kind: texts(llm, kind, 0)] * 4)  # type: ignore[misc,list-item]
        llm._engines._recent.clear()
        assert llm._engines.find(caching, params, [30], 1) is engine
        done = engine.snapshot().counters
        if kind != "static":  # whose length comes with the prompt's
            assert done.requests["length"] == 4
            assert done.steps < 4 * 12 * 2
