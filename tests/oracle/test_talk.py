"""Text in and out: streams, stop strings, conversations, and what happens when they break off."""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from typing import Any

import numpy as np
import pytest
import torch

from kept import LLM, Completion, GenerationInterrupted, OptionError, machine
from kept.sampling import sample_rows

from .talker import make_talker

Messages = list[dict[str, str]]
FIRST: Messages = [{"role": "user", "content": "tell me more"}]
PROMPT = "one two three"


@pytest.fixture(scope="module")
def talkers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LLM]:
    found = {}
    for family in ("gpt2", "llama", "mistral"):
        folder = tmp_path_factory.mktemp("talker")
        make_talker(folder, family)
        found[family] = LLM(folder, prefill_chunk=8)
    return found


@pytest.fixture(params=["gpt2", "llama", "mistral"])
def llm(request: pytest.FixtureRequest, talkers: dict[str, LLM]) -> LLM:
    talkers[request.param].forget()
    return talkers[request.param]


def break_pass(patch: pytest.MonkeyPatch, llm: LLM, at: int, error: BaseException) -> None:
    """Raise at the model's pass number `at`, whether it is prepared anew or repeats the last."""
    calls = 0

    def failing(run: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at:
                raise error
            return run(*arguments)

        return wrapped

    patch.setattr(llm.model, "next_logits", failing(llm.model.next_logits))
    if llm.model.native is not None:
        program = llm.model.native.program
        patch.setattr(program, "run_again", failing(program.run_again))


def test_a_stream_is_the_generated_text(llm: LLM) -> None:
    for options in ({}, {"temperature": 1.2, "seed": 4}):
        [whole] = llm.generate(PROMPT, max_new_tokens=40, **options)
        stream = llm.stream(PROMPT, max_new_tokens=40, **options)
        pieces = list(stream)
        assert "".join(pieces) == whole.text == stream.completion.text
        assert stream.completion.token_ids == whole.token_ids
        assert len(pieces) > 5
        assert all(pieces)
    assert llm.tokenizer is not None
    ids = llm.tokenizer.encode(PROMPT)
    [from_ids] = llm.generate([ids], max_new_tokens=40)
    assert from_ids.text == llm.generate(PROMPT, max_new_tokens=40)[0].text
    both = llm.tokenizer.decode([*ids, *from_ids.token_ids])
    assert both == llm.tokenizer.decode(ids) + from_ids.text


def test_stop_strings(llm: LLM) -> None:
    [free] = llm.generate(PROMPT, max_new_tokens=60)
    for begin, length in ((3, 1), (11, 3), (17, 9)):
        stop = free.text[begin : begin + length]
        expected = free.text[: free.text.index(stop)]
        [found] = llm.generate(PROMPT, max_new_tokens=60, stop_strings=[stop, "never said"])
        assert found.text == expected
        assert found.finish_reason == "stop"
        assert found.token_ids == free.token_ids[: len(found.token_ids)]
        stream = llm.stream(PROMPT, max_new_tokens=60, stop_strings=stop)
        assert "".join(stream) == expected
        assert stream.completion.finish_reason == "stop"
    [found] = llm.generate(PROMPT, max_new_tokens=60, stop_strings="never said")
    assert found.text == free.text
    assert found.finish_reason == "length"


def test_stop_strings_end_beams(talkers: dict[str, LLM]) -> None:
    llm = talkers["llama"]
    options = {"num_beams": 3, "max_new_tokens": 20}
    [free] = llm.generate(PROMPT, **options)
    stop = free.text[4:6]
    for found in llm.generate(PROMPT, stop_strings=stop, num_return_sequences=3, **options):
        assert stop not in found.text
        assert found.finish_reason == ("stop" if len(found.token_ids) < 20 else "length")


def test_a_stream_takes_one_text_only(llm: LLM) -> None:
    with pytest.raises(OptionError, match=r"num_beams=2.*use generate\(\)"):
        llm.stream(PROMPT, num_beams=2)
    with pytest.raises(OptionError, match=r"one prompt.*use generate\(\)"):
        llm.stream([[1], [2]])


def fresh(llm: LLM, messages: Messages, **options: Any) -> Completion:
    """The same turn from nothing."""
    assert llm.tokenizer is not None
    ids = llm.tokenizer.encode(llm.render_chat(messages), add_special_tokens=False)
    return llm.generate([ids], **options)[0]


def tokens_of(llm: LLM, messages: Messages) -> list[int]:
    assert llm.tokenizer is not None
    return llm.tokenizer.encode(llm.render_chat(messages), add_special_tokens=False)


def shared(held: list[int], prompt: list[int]) -> int:
    """How much of a prompt the cache can spare: all that is equal, but for the last token."""
    pairs = zip(held, prompt[:-1], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cache_implementation": "static", "max_cache_len": 128},
        {"temperature": 1.1, "seed": 8},
        {"kv_dtype": "int8"},
    ],
    ids=str,
)
def test_turns_of_a_conversation(llm: LLM, options: dict[str, Any]) -> None:
    llm.forget()
    options = {"max_new_tokens": 9, **options}
    messages, held = FIRST, list[int]()
    for turn in range(3):
        prompt = tokens_of(llm, messages)
        answer = llm.chat(messages, **options)
        assert answer.text == fresh(llm, messages, **options).text
        assert answer.prompt_tokens == len(prompt)
        assert answer.cached_tokens == shared(held, prompt)
        assert (answer.cached_tokens > 0) == (turn > 0)
        held = [*prompt, *answer.token_ids[:-1]]
        messages = [
            *messages,
            {"role": "assistant", "content": answer.text},
            {"role": "user", "content": f"turn {turn}"},
        ]
    # An edit near the beginning spares what stands before it.
    edited = [{"role": "user", "content": "tell me less"}, *messages[1:]]
    answer = llm.chat(edited, **options)
    assert 0 < answer.cached_tokens == shared(held, tokens_of(llm, edited)) < 10
    assert answer.text == fresh(llm, edited, **options).text
    llm.forget()
    assert llm.chat(edited, **options).cached_tokens == 0


def test_a_conversation_in_a_ring(talkers: dict[str, LLM]) -> None:
    llm = talkers["mistral"]
    llm.forget()
    options = {"max_new_tokens": 6, "cache_implementation": "sliding"}
    first = llm.chat(FIRST, **options)
    messages = [
        *FIRST,
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": "more"},
    ]
    second = llm.chat(messages, **options)
    assert second.cached_tokens > 0
    assert second.text == fresh(llm, messages, **options).text
    # Other options make another cache.
    assert llm.chat(messages, max_new_tokens=6).cached_tokens == 0
    assert llm.chat(messages, max_new_tokens=6, kv_dtype="int4").cached_tokens == 0
    assert llm.chat(messages, max_new_tokens=6, kv_dtype="int4").cached_tokens > 0


def test_a_stream_that_is_left(llm: LLM) -> None:
    whole = llm.chat(FIRST, max_new_tokens=30)
    llm.forget()
    stream = llm.chat_stream(FIRST, max_new_tokens=30)
    pieces = []
    for piece in stream:
        pieces.append(piece)
        if len(pieces) == 3:
            break
    partial = stream.completion
    assert partial.finish_reason == "interrupted"
    assert partial.text.startswith("".join(pieces))
    assert len(partial.token_ids) < 30
    assert partial.token_ids == whole.token_ids[: len(partial.token_ids)]
    again = llm.chat(FIRST, max_new_tokens=30)
    assert again.text == whole.text
    assert again.cached_tokens == again.prompt_tokens - 1


def test_a_stream_read_twice(llm: LLM) -> None:
    """The second reading is empty, and takes nothing back from the turns since the first."""
    stream = llm.chat_stream(FIRST, max_new_tokens=8)
    answer = "".join(stream)
    messages = [{"role": "user", "content": "tell me less"}]
    llm.chat(messages, max_new_tokens=20)
    assert list(stream) == []
    assert stream.completion.text == answer
    assert llm.chat(FIRST, max_new_tokens=8).text == answer


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("boom")], ids=repr)
def test_a_chat_broken_in_a_step(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    whole = llm.chat(FIRST, max_new_tokens=30)
    llm.forget()
    stream = llm.chat_stream(FIRST, max_new_tokens=30)
    with monkeypatch.context() as patch:
        break_pass(patch, llm, 12, error)
        with pytest.raises(type(error)):
            list(stream)
    partial = stream.completion
    broken = isinstance(error, Exception)
    assert partial.finish_reason == ("error" if broken else "interrupted")
    assert partial.error == ("boom" if broken else None)
    assert 0 < len(partial.token_ids) < 30
    assert whole.token_ids[: len(partial.token_ids)] == partial.token_ids
    again = llm.chat(FIRST, max_new_tokens=30)
    assert again.text == whole.text
    assert again.cached_tokens == again.prompt_tokens - 1


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=str)
def test_ctrl_c_keeps_what_there_is(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    several = [PROMPT, "tell me"]
    whole = llm.generate(several, max_new_tokens=25, **options)
    with monkeypatch.context() as patch:
        break_pass(patch, llm, 15, KeyboardInterrupt())
        with pytest.raises(GenerationInterrupted) as caught:
            llm.generate(several, max_new_tokens=25, **options)
    assert isinstance(caught.value, KeyboardInterrupt)
    assert len(caught.value.completions) == 2
    for found, expected in zip(caught.value.completions, whole, strict=True):
        assert isinstance(found, Completion)
        assert found.finish_reason == "interrupted"
        assert found.text
        assert 0 < len(found.token_ids) < 25
        if not options:
            assert found.token_ids == expected.token_ids[: len(found.token_ids)]
            assert expected.text.startswith(found.text.rstrip("\ufffd"))
    again = llm.generate(several, max_new_tokens=25, **options)
    assert [c.text for c in again] == [c.text for c in whole]


def test_an_error_in_a_step_leaves_the_llm_usable(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    [whole] = llm.generate(PROMPT, max_new_tokens=10)
    with monkeypatch.context() as patch:
        break_pass(patch, llm, 3, RuntimeError("boom"))
        with pytest.raises(RuntimeError, match="boom"):
            llm.generate(PROMPT, max_new_tokens=10)
    assert llm.generate(PROMPT, max_new_tokens=10)[0].text == whole.text


def test_prompts_in_every_form(talkers: dict[str, LLM]) -> None:
    llm = talkers["llama"]
    assert llm.tokenizer is not None
    ids = llm.tokenizer.encode(PROMPT)
    forms = [PROMPT, ids, tuple(ids), np.array(ids), list(np.array(ids)), torch.tensor(ids)]
    texts = [llm.generate(form, max_new_tokens=4)[0].text for form in forms]
    together = llm.generate([*forms, *torch.tensor([ids, ids])], max_new_tokens=4)
    assert [c.text for c in together] == [*texts, texts[0], texts[0]] == texts[:1] * 8
    for wrong in (5, {"role": "user"}, [{"role": "user"}], [1.5], [True], torch.ones(3)):
        with pytest.raises(OptionError, match="a prompt is a string or a list of token ids"):
            llm.generate(wrong)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="no prompt"):
        llm.generate([])
    with pytest.raises(OptionError, match="beginning-of-sequence"):
        llm.generate("")
    with pytest.raises(OptionError, match="token id 5000 is outside"):
        llm.generate([1, 5000])


def test_ctrl_c_in_a_chat_keeps_what_there_is(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = llm.chat(FIRST, max_new_tokens=25)
    llm.forget()
    with monkeypatch.context() as patch:
        break_pass(patch, llm, 10, KeyboardInterrupt())
        with pytest.raises(GenerationInterrupted) as caught:
            llm.chat(FIRST, max_new_tokens=25)
    [found] = caught.value.completions
    assert found.finish_reason == "interrupted"
    assert found.token_ids == whole.token_ids[: len(found.token_ids)]
    assert 0 < len(found.token_ids) < 25
    assert not isinstance(caught.value, Exception)


@pytest.mark.skipif(not machine.NATIVE_AVAILABLE, reason="installed without a C++ compiler")
@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 5, "temperature": 1.7, "num_return_sequences": 3},
        {"top_k": 20, "top_p": 0.8, "logprobs": 3},
        {"do_sample": False, "logprobs": 4},
        {"top_k": 5, "min_p": 0.1, "logprobs": 2},
    ],
    ids=str,
)
def test_the_likeliest_few_change_no_token(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """Those that the pass found on its way, against reading whole rows."""
    prompts = [PROMPT, "tell me", "a longer one than the others are"]
    used = []
    options = {"do_sample": True, "seed": 3, "max_new_tokens": 20, **options}

    def watched(*arguments: Any) -> Any:
        used.append(arguments[-1] is not None)
        return sample_rows(*arguments)

    monkeypatch.setattr("kept.engine.drawing.sample_rows", watched)
    found = llm.generate(prompts, **options)
    assert all(used)
    used.clear()
    monkeypatch.setattr("kept.engine.planning.num_likeliest", lambda *step: 0)
    expected = llm.generate(prompts, **options)
    assert not any(used)
    for few, whole in zip(found, expected, strict=True):
        assert few.token_ids == whole.token_ids
        assert few.logprobs == whole.logprobs
