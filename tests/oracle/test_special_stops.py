"""Stop strings that name special tokens: where transformers stops, without them in the text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from kept import LLM

from .generation import upto_eos

PROMPT = "one two three"


def leading(llm: LLM) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Five tokens a greedy text begins with, and options that put `<|end|>` and `<|user|>` next."""
    assert llm.tokenizer is not None
    [free] = llm.generate(PROMPT, max_new_tokens=5)
    ids = free.token_ids
    end, user = (llm.tokenizer.backend.token_to_id(t) for t in ("<|end|>", "<|user|>"))
    biases = [[[*ids[2:5], end], 100.0], [[end, user], 100.0]]
    return ids, {"sequence_bias": biases, "max_new_tokens": 12}


def stops_of(llm: LLM, ids: tuple[int, ...]) -> list[str]:
    """Stop strings of special tokens alone, of parts of one, and of both kinds of text."""
    assert llm.tokenizer is not None
    last = llm.tokenizer.decode(ids[-1:])
    return ["<|end|>", "end|>", f"{last}<|end|>", "<|end|><|user|>", f"{last}<|end|><|us"]


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=str)
def test_ids_are_those_of_transformers(folder: Path, llm: LLM, options: dict[str, Any]) -> None:
    hf = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(PROMPT, return_tensors="pt")
    ids, led = leading(llm)
    for stop in stops_of(llm, ids):
        pad = hf.config.vocab_size - 1
        rows = hf.generate(
            **inputs, stop_strings=[stop], tokenizer=tokenizer, pad_token_id=pad, **led, **options
        )
        expected = upto_eos(rows[0, inputs["input_ids"].shape[1] :].tolist(), [pad])
        [found] = llm.generate(PROMPT, stop_strings=stop, **led, **options)
        assert found.token_ids == tuple(t for t in expected if t != pad)
        if not options:
            assert found.finish_reason == "stop"
            assert len(found.token_ids) == 6 + ("user" in stop or "<|us" in stop)


def test_the_text_ends_before_the_stop_string(llm: LLM) -> None:
    assert llm.tokenizer is not None
    ids, led = leading(llm)
    whole = llm.tokenizer.decode(ids)
    for stop in stops_of(llm, ids):
        plain = stop.split("<")[0] if stop.startswith(llm.tokenizer.decode(ids[-1:])) else ""
        [found] = llm.generate(PROMPT, stop_strings=stop, **led)
        assert found.text == whole.removesuffix(plain)
        stream = llm.stream(PROMPT, stop_strings=stop, **led)
        assert "".join(stream) == found.text == stream.completion.text
        several = llm.generate([PROMPT, "tell me", PROMPT], stop_strings=stop, **led)
        assert [several[0].text, several[2].text] == [found.text] * 2
        drawn = llm.generate(PROMPT, stop_strings=stop, temperature=0.01, seed=1, **led)
        assert drawn[0].text == found.text


def test_beams_end_at_a_special_token_and_do_not_show_it(llm: LLM) -> None:
    _, led = leading(llm)
    found = llm.generate(PROMPT, num_beams=3, num_return_sequences=3, stop_strings="<|end|>", **led)
    assert "stop" in {c.finish_reason for c in found}
    assert llm.tokenizer is not None
    for completion in found:
        assert completion.text == llm.tokenizer.decode(completion.token_ids)
        assert completion.finish_reason == ("stop" if len(completion.token_ids) < 12 else "length")


def test_a_chat_ends_at_the_header_of_another_turn(llm: LLM) -> None:
    messages = [{"role": "user", "content": "tell me more"}]
    free = llm.chat(messages, max_new_tokens=4).token_ids
    assert llm.tokenizer is not None
    user = llm.tokenizer.backend.token_to_id("<|user|>")
    llm.forget()
    found = llm.chat(
        messages,
        max_new_tokens=9,
        stop_strings="<|user|>",
        sequence_bias=[[[*free[2:4], user], 100.0]],
    )
    assert found.token_ids == (*free, user)
    assert found.text == llm.tokenizer.decode(free)
    assert found.finish_reason == "stop"
