"""The end of a turn that only some of a checkpoint's files name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from kept import LLM

from .talker import make_talker

MESSAGES = [{"role": "user", "content": "tell me more"}]
PROMPT = "one two three"
LENGTH = 12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`<|end|>` ends the template's turns and is the tokenizer's eos; no config names an end."""
    make_talker(tmp_path, "llama")
    return tmp_path


def edit(path: Path, **fields: Any) -> None:
    found = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: v for name, v in found.items() if v is not None}))


def leading_to(llm: LLM, text: str, ids: tuple[int, ...]) -> tuple[int, dict[str, Any]]:
    """A token, and the options that make a text reach it after its fourth token."""
    assert llm.tokenizer is not None
    token = llm.tokenizer.backend.token_to_id(text)
    assert token not in ids
    return token, {"max_new_tokens": LENGTH, "sequence_bias": [[[*ids[2:4], token], 1000.0]]}


def answer(llm: LLM, text: str, **options: Any) -> tuple[tuple[int, ...], str, str]:
    """What a chat comes to whose model says `text` after four tokens: ids, the ids up to it."""
    llm.forget()
    free = llm.chat(MESSAGES, max_new_tokens=4, ignore_eos=True).token_ids
    token, leading = leading_to(llm, text, free)
    llm.forget()
    found = llm.chat(MESSAGES, **leading, **options)
    assert found.token_ids[:5] == (*free, token)
    return found.token_ids, found.text, found.finish_reason


def test_a_chat_ends_where_the_tokenizer_or_the_template_says(folder: Path) -> None:
    for config in ({"eos_token": "<|end|>", "chat_template": None}, {"eos_token": None}):
        edit(folder / "tokenizer_config.json", **config)
        template = folder / "chat_template.jinja"
        if "chat_template" in config:  # whose turns end in no token
            kept_template = template.read_text()
            template.write_text("{% for m in messages %}{{ m['content'] }}\n{% endfor %}")
        else:
            template.write_text(kept_template)
        llm = LLM(folder)
        ids, text, reason = answer(llm, "<|end|>")
        assert (len(ids), reason) == (5, "stop")
        assert llm.tokenizer is not None
        assert text == llm.tokenizer.decode(ids[:4])
        assert len(answer(llm, "<|end|>", ignore_eos=True)[0]) == LENGTH
        assert len(answer(llm, "<|end|>", eos_token_id=0 if ids[4] else 1)[0]) == LENGTH


def test_a_chat_ends_where_config_json_says(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", eos_token=None)
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    llm = LLM(folder)
    ids, _, reason = answer(llm, "<|user|>")
    assert (len(ids), reason) == (LENGTH, "length")
    edit(folder / "config.json", eos_token_id=[90, ids[4]])
    edit(folder / "generation_config.json", eos_token_id=None)
    ids, _, reason = answer(LLM(folder), "<|user|>")
    assert (len(ids), reason) == (5, "stop")


def test_a_turns_end_that_is_not_special_stays_out_of_the_text(folder: Path) -> None:
    path = folder / "tokenizer.json"
    found = json.loads(path.read_text())
    for token in found["added_tokens"]:
        token["special"] = False
    path.write_text(json.dumps(found))
    edit(folder / "tokenizer_config.json", eos_token=None, added_tokens_decoder=None)
    llm = LLM(folder)
    assert llm.tokenizer is not None
    assert not llm.tokenizer.is_special("<|end|>")
    ids, text, reason = answer(llm, "<|end|>")
    assert (len(ids), reason) == (5, "stop")
    assert text == llm.tokenizer.decode(ids[:4])


def test_generate_ends_where_transformers_does(folder: Path) -> None:
    """Which is where the settings say, and not at the tokenizer's end of sequence."""
    llm = LLM(folder)
    assert llm.tokenizer is not None
    assert llm.tokenizer.eos_token_id is not None
    [free] = llm.generate(PROMPT, max_new_tokens=4)
    token, leading = leading_to(llm, "<|end|>", free.token_ids)
    ids = torch.tensor([llm.tokenizer.encode(PROMPT)])
    lengths = []
    for eos in (None, token):
        edit(folder / "generation_config.json", eos_token_id=eos)
        hf = AutoModelForCausalLM.from_pretrained(folder).eval()
        expected = hf.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **leading)
        [found] = LLM(folder).generate(PROMPT, **leading)
        assert found.token_ids == tuple(expected[0, ids.shape[1] :].tolist())
        lengths.append(len(found.token_ids))
    assert lengths == [LENGTH, 5]
