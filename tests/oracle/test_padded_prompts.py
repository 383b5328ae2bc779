"""Padded batches as prompts: with a mask as if unpadded, without it an error, never as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BatchEncoding

from kept import LLM, OptionError

TEXTS = ["one two three", "tell", "tell me more"]
LENGTH = {"max_new_tokens": 6}


def with_pad(folder: Path, place: Path) -> LLM:
    for file in folder.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    path = place / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token": "<|user|>"}))
    return LLM(place)


def padded(folder: Path, side: str, **options: Any) -> BatchEncoding:
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side=side)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer(TEXTS, padding=True, **options)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_mask_makes_them_the_unpadded_prompts(folder: Path, llm: LLM, side: str) -> None:
    expected = [c.token_ids for c in llm.generate(TEXTS, **LENGTH)]
    for kind in ("pt", "np", None):
        batch = padded(folder, side, return_tensors=kind)
        assert not np.asarray(batch["attention_mask"]).all()
        for found in (
            llm.generate(batch, **LENGTH),
            llm.generate(batch["input_ids"], attention_mask=batch["attention_mask"], **LENGTH),
        ):
            assert [c.token_ids for c in found] == expected
            assert [c.prompt_index for c in found] == [0, 1, 2]
    batch = padded(folder, side, return_tensors="pt")
    row = {name: values[1:2] for name, values in batch.items()}
    stream = llm.stream(row, **LENGTH)
    "".join(stream)
    assert stream.completion.token_ids == expected[1]
    bools = batch["attention_mask"][1].bool()
    stream = llm.stream(batch["input_ids"][1], attention_mask=bools, **LENGTH)
    "".join(stream)
    assert stream.completion.token_ids == expected[1]


@pytest.mark.parametrize("own_pad", [False, True], ids=["eos", "pad"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_without_a_mask_they_are_refused(
    folder: Path, llm: LLM, tmp_path: Path, side: str, own_pad: bool
) -> None:
    if own_pad:
        llm = with_pad(folder, tmp_path)
        folder = tmp_path
    edge = "begins" if side == "left" else "ends"
    for kind in ("pt", "np", None):
        ids = padded(folder, side, return_tensors=kind)["input_ids"]
        with pytest.raises(OptionError, match=rf"prompt \d {edge} with .* pass attention_mask"):
            llm.generate(ids, **LENGTH)
        with pytest.raises(OptionError, match=rf"prompt 0 {edge} with .* pass attention_mask"):
            llm.generate(ids[1], **LENGTH)
        with pytest.raises(OptionError, match="looks like padding"):
            llm.stream(ids[1], **LENGTH)
        everything = np.ones_like(np.asarray(ids))
        assert llm.generate(ids, attention_mask=everything, **LENGTH)[0].prompt_tokens == len(
            ids[0]
        )


def test_what_a_prompt_may_hold_is_no_padding(folder: Path, llm: LLM, tmp_path: Path) -> None:
    assert llm.tokenizer is not None
    eos = llm.tokenizer.eos_token_id
    texts = [[eos, 4, 5], [eos, 6, 7]]
    for prompts in (texts, torch.tensor(texts), [eos, 4], torch.tensor([eos]), [[eos, 4], [5]]):
        llm.generate(prompts, **LENGTH)
    llm.generate(torch.tensor([[4, eos], [5, eos]]), **LENGTH)
    own = with_pad(folder, tmp_path)
    assert own.tokenizer is not None
    pad = own.tokenizer.backend.token_to_id("<|user|>")
    own.generate([[eos, eos, 4], [4, pad, 5]], **LENGTH)
    own.chat([{"role": "user", "content": "a"}], **LENGTH)  # whose template begins with it
    own.generate("<|user|>", **LENGTH)


@pytest.mark.parametrize(
    ("prompts", "mask", "named"),
    [
        ([[1, 2], [3, 4]], [[1, 1]], r"shape \(1, 2\), and the prompts \(2, 2\)"),
        ([[1, 2], [3]], [[1, 1], [1]], "rows of unequal lengths"),
        ([1, 2, 3], [1, 0, 1], "leaves of prompt 0 several pieces"),
        ([[1, 2], [3, 4]], [[1, 1], [0, 0]], "leaves of prompt 1 nothing"),
        ([1, 2], [1, 2], "more than 0 and 1"),
        ("text", [1], "pass token ids"),
        (torch.ones(2), [1, 1], "of float32"),
        ({"input_ids": [1, 2], "attention_mask": [1]}, None, "shape"),
        ([1, 2], torch.ones(2, device="meta"), "attention_mask is a meta tensor"),
        ([1, 2], torch.ones(2).to_sparse(), r"attention_mask is a torch\.sparse_coo tensor"),
        ({"text": "a"}, None, "a prompt is a string or a list of token ids"),
    ],
)
def test_masks_that_do_not_fit(llm: LLM, prompts: Any, mask: Any, named: str) -> None:
    with pytest.raises(OptionError, match=named):
        llm.generate(prompts, attention_mask=mask, **LENGTH)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.bool, torch.int32])
def test_masks_of_any_dtype(llm: LLM, dtype: torch.dtype) -> None:
    mask = torch.tensor([0, 1, 1]).to(dtype).requires_grad_(dtype.is_floating_point)
    expected = llm.generate([2, 3], **LENGTH)[0].token_ids
    assert llm.generate([1, 2, 3], attention_mask=mask, **LENGTH)[0].token_ids == expected
