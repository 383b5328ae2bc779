"""One model, several threads: each has what it would have alone."""

from __future__ import annotations

import copy
import signal
import threading
from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import Any

import pytest
import torch

from kept import LLM, EvictionPolicy, GenerationInterrupted, machine, make_cache
from kept.batch import pack
from kept.cache.policy import Entries, Newest
from kept.engine import Continuation, Engine, Held

from .tiny import plain_model

PROMPTS = ("Once upon a time", "The little dog", "She said", "In the house", "A big tree", "Tom")
OPTIONS = {"max_new_tokens": 8, "do_sample": True, "top_k": 20, "logprobs": 2}
BACKENDS = ("native", "reference") if machine.NATIVE_AVAILABLE else ("reference",)


@pytest.fixture(scope="module", params=BACKENDS)
def llm(request: pytest.FixtureRequest) -> Iterator[LLM]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEPT_OPS", request.param)
        yield LLM()


def generated(llm: LLM, i: int) -> object:
    """Several texts at once, so that rows and buffers are many, and grow."""
    prompts = [PROMPTS[i]] * (1 + 3 * (i % 2))
    found = llm.generate(prompts, seed=i, **OPTIONS)
    return [(x.text, x.logprobs) for x in found]


def streamed(llm: LLM, i: int) -> object:
    return list(llm.stream(PROMPTS[i], seed=i, **OPTIONS))


def chatted(llm: LLM, i: int) -> object:
    return llm.chat([{"role": "user", "content": PROMPTS[i]}], seed=i, **OPTIONS).text


def predicted(llm: LLM, i: int) -> object:
    assert llm.tokenizer is not None
    ids = torch.tensor([llm.tokenizer.encode(PROMPTS[i])])
    with torch.no_grad():
        return llm.model(ids).logits.tolist()


FACES = (generated, streamed, chatted, predicted)


def in_threads(*work: Callable[[], None]) -> None:
    """Run all at once; what one raises is raised here."""
    failed: list[BaseException] = []

    def guarded(one: Callable[[], None]) -> None:
        try:
            one()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(one,), daemon=True) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "threads wait for each other"
    if failed:
        raise failed[0]


def test_six_threads_have_the_texts_of_one(llm: LLM) -> None:
    llm.forget()
    alone = {(face, i): face(llm, i) for face in FACES for i in range(len(PROMPTS))}
    found: dict[tuple[object, int], object] = {}

    def work(i: int) -> None:
        for shift in range(len(FACES)):  # no two threads at the same face
            face = FACES[(i + shift) % len(FACES)]
            found[face, i] = face(llm, i)

    in_threads(*(lambda i=i: work(i) for i in range(len(PROMPTS))))  # type: ignore[misc]
    assert [key for key in alone if found[key] != alone[key]] == []


def test_two_threads_have_conversations_of_their_own(llm: LLM) -> None:
    def talk(i: int) -> list[str]:
        messages: list[dict[str, str]] = []
        for turn in range(3):
            messages.append({"role": "user", "content": PROMPTS[(i + turn) % len(PROMPTS)]})
            answer = llm.chat(messages, seed=i, **OPTIONS)
            messages.append({"role": "assistant", "content": answer.text})
        return [message["content"] for message in messages]

    alone = [talk(i) for i in range(4)]
    found: dict[int, list[str]] = {}
    in_threads(*(lambda i=i: found.update({i: talk(i)}) for i in range(4)))  # type: ignore[misc]
    assert [found[i] for i in range(4)] == alone


CHATS = (
    {"cache_implementation": "static", "max_cache_len": 128},
    {"cache_implementation": "sliding", "sliding_window": 64},
)


@pytest.mark.parametrize("kind", CHATS, ids=str)
def test_a_conversation_goes_on_from_its_own_keys(
    llm: LLM, kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another's text takes the slot between its last step and the end of its turn."""
    if llm.model.native is None:
        pytest.skip("what is cached is rounded otherwise on the torch reference")
    options, messages = {**OPTIONS, **kind}, [{"role": "user", "content": PROMPTS[0]}]
    hand_over = Engine.hand_over

    def late(engine: Engine, *text: Continuation) -> Held | None:
        monkeypatch.undo()
        llm.generate(PROMPTS[1], seed=1, **options)
        return hand_over(engine, *text)

    monkeypatch.setattr(Engine, "hand_over", late)
    answer = llm.chat(messages, seed=0, **options)
    messages += [{"role": "assistant", "content": answer.text}, messages[0]]
    found = llm.chat(messages, seed=0, **options)
    llm.forget()
    assert found.token_ids == llm.chat(messages, seed=0, **options).token_ids


def test_a_conversation_that_is_left_while_another_computes_is_kept(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, messages = {**OPTIONS, **CHATS[0]}, [{"role": "user", "content": PROMPTS[0]}]
    computing, leaving = threading.Event(), threading.Event()
    hand_over = Engine.hand_over

    def waited_for(engine: Engine, *text: Continuation) -> Held | None:
        leaving.set()
        return hand_over(engine, *text)

    def compute() -> None:
        with llm.model.running():
            computing.set()
            leaving.wait(60)

    monkeypatch.setattr(Engine, "hand_over", waited_for)
    stream = llm.chat_stream(messages, seed=0, **options)
    pieces, other = iter(stream), threading.Thread(target=compute)
    next(pieces)
    other.start()
    computing.wait(60)
    pieces.close()
    other.join(60)
    assert stream._generation.finished
    assert llm.chat(messages, seed=0, **options).cached_tokens > 0


def test_streams_advance_in_turn_in_one_thread_and_in_others(llm: LLM) -> None:
    alone = [streamed(llm, i) for i in range(3)]
    streams = [iter(llm.stream(PROMPTS[i], seed=i, **OPTIONS)) for i in range(3)]
    pieces = list(zip_longest(*streams))
    assert [[p for p in column if p] for column in zip(*pieces, strict=True)] == alone

    stream, heard = iter(llm.stream(PROMPTS[0], seed=0, **OPTIONS)), [""]
    heard = [next(stream)]
    in_threads(lambda: heard.append(next(stream)))
    assert [*heard, *stream] == alone[0]


def test_a_stream_that_nobody_hears_out_holds_nobody_up(llm: LLM) -> None:
    stream = iter(llm.stream(PROMPTS[0], seed=0, **OPTIONS))
    next(stream)
    alone = generated(llm, 1)
    in_threads(lambda: stream.close(), lambda: generated(llm, 1))  # type: ignore[attr-defined]
    assert generated(llm, 1) == alone


def test_a_stream_hands_out_what_another_thread_draws_as_it_looks(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the last piece, where the text ends between two looks."""
    take = Continuation.take_text

    def take_and_be_overtaken(continuation: Continuation) -> str:
        piece = take(continuation)
        if not piece and continuation.finish_reason is None:
            in_threads(lambda: engine.advance(lambda: False))
        return piece

    monkeypatch.setattr(Continuation, "take_text", take_and_be_overtaken)
    for count in range(1, 5):  # the last step is one or the other's
        stream = llm.stream(PROMPTS[0], max_new_tokens=count)
        engine = stream._generation.engine
        assert "".join(stream) == stream.completion.text


def test_progress_may_generate(llm: LLM) -> None:
    alone, found = streamed(llm, 1), []
    llm.generate(
        PROMPTS[0],
        max_new_tokens=3,
        progress=lambda done, total: found.append(streamed(llm, 1)),
    )
    assert found  # steps within move both texts on where they share an engine
    assert all(x == alone for x in found)


def test_a_step_within_a_step_leaves_it_its_logits(llm: LLM) -> None:
    """A score is anybody's code, and runs as a step ends."""
    model = llm.model
    inner: list[object] = []

    class Generating(Newest):
        def __call__(self, entries: Entries) -> torch.Tensor:
            inner.append(generated(llm, 1))
            return super().__call__(entries)

    def run(policy: EvictionPolicy) -> torch.Tensor:
        cache = make_cache(model.kv_shapes, "evicting", dtype=model.dtype, budget=8, policy=policy)
        chunks, past, found = [list(range(5, 65)), *([i] for i in range(6, 14))], 0, []
        with torch.inference_mode():
            for chunk in chunks:  # what is too many leaves at a multiple of 64
                with model.running():
                    row = model.next_logits(pack([chunk], past=[past], last_of=[True]), cache)
                    found.append((row.logits.clone(), row.best))
                past += len(chunk)
        logits = torch.cat([x for x, _ in found])
        for row, (_, best) in zip(logits, found, strict=True):
            assert best is None or best[0][1] == int(row.argmax())
        return logits

    plain = run(EvictionPolicy(Newest(), sinks=0, recent=1))
    assert torch.equal(run(EvictionPolicy(Generating(), sinks=0, recent=1)), plain)
    assert inner
    assert all(x == generated(llm, 1) for x in inner)


def test_ctrl_c_ends_the_wait_for_a_turn(llm: LLM) -> None:
    """Once the turn is over that it waits for: texts end between two steps."""
    alone = generated(llm, 0)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with llm.model.running():
            held.set()
            done.wait(1)

    def interrupt() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    holder, timer = threading.Thread(target=hold), threading.Timer(0.2, interrupt)
    holder.start()
    held.wait(60)
    # What a shell starts in the background ignores the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer.start()
    try:
        with pytest.raises(GenerationInterrupted):
            llm.generate(PROMPTS[0], **OPTIONS)
    finally:
        signal.signal(signal.SIGINT, before)
        done.set()
        holder.join(60)
        timer.join(60)
    assert generated(llm, 0) == alone


def test_a_copy_of_a_model_takes_turns_of_its_own() -> None:

    model = plain_model("llama", torch.float32)
    twin = copy.deepcopy(model)
    found: list[torch.Tensor] = []
    ids = torch.tensor([[1, 2, 3]])
    with model.running(), torch.no_grad():
        in_threads(lambda: found.append(twin(ids).logits.detach()))
        assert torch.equal(found[0], model(ids).logits)
