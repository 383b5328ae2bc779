"""Ctrl-C in a turn of a chat, wherever it comes: the next answer is the one that is right."""

from __future__ import annotations

from contextlib import suppress

import pytest
from interrupting import interrupted, some_of

from kept import LLM

from .talker import make_talker

ALL = 90  # about as many lines cut back
FIRST = [{"role": "user", "content": "tell me more"}]
EDITED = [{"role": "user", "content": "tell me"}, *FIRST]  # goes back into the first question
KINDS = ({}, {"cache_implementation": "static", "max_cache_len": 120, "kv_dtype": "int8"})


@pytest.fixture(scope="module", params=["gpt2", "mistral"])
def llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LLM:
    folder = tmp_path_factory.mktemp("talker")
    make_talker(folder, request.param)
    return LLM(folder, prefill_chunk=8)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_next_answer_is_right(llm: LLM, kind: dict[str, object]) -> None:
    options = {"max_new_tokens": 5, **kind}

    def begin() -> list[dict[str, str]]:
        llm.forget()
        answer = llm.chat(FIRST, **options).text
        return [*FIRST, {"role": "assistant", "content": answer}, *FIRST]

    turns = {
        "chat": lambda: llm.chat(EDITED, **options),
        "stream": lambda: list(llm.chat_stream(EDITED, **options)),
        "generate": lambda: llm.generate(["tell me", "more"], **options),
    }
    second = begin()
    llm.forget()
    expected = llm.chat(second, logprobs=1, **options)
    # Many of the lines that cut the kept cache back, and some of those around them.
    for name, where, most in (
        ("chat", ("llm/conversation.py", "cache/cache.py"), ALL),
        ("chat", ("llm", "cache"), 6),
        ("stream", ("llm", "cache"), 6),
        ("generate", ("llm", "cache"), 3),
    ):
        begin()
        count = interrupted(turns[name], None, *where)
        places = range(1, most, 4) if most == ALL else some_of(count, most, name)
        for at in places:
            begin()
            with suppress(KeyboardInterrupt):
                interrupted(turns[name], at, *where)
            found = llm.chat(second, logprobs=1, **options)
            assert found.token_ids == expected.token_ids, (name, at)
            assert found.logprobs == expected.logprobs, (name, at)
