"""Checkpoints as others once wrote them: old names of classes, more heads, pickles."""

from __future__ import annotations

import json
import logging
import textwrap
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedModel

from kept import LLM, UnsupportedFormatError, WeightsError

from . import seq2seq
from .generation import prompts
from .test_files import Tensors, rewrite_config, rewrite_tensors
from .zoo import make_hf

NAMES = ("gemma", "gemma2", "gemma3", "gpt2", "llama tied", "mistral", "qwen2", "qwen3", "t5")


def make(name: str) -> PreTrainedModel:
    return seq2seq.make_hf("v1.0") if name == "t5" else make_hf(name)


@torch.no_grad()
def logits(llm: LLM) -> Tensor:
    return llm.model(torch.tensor(prompts(9))).logits


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        ("llama", "LLaMAForCausalLM"),
        ("gpt2", "GPT2HeadWithValueModel"),
        ("t5", "T5WithLMHeadModel"),
    ],
)
def test_old_names_of_classes(name: str, alias: str, tmp_path: Path) -> None:
    make(name).save_pretrained(tmp_path)
    rewrite_config(tmp_path, architectures=[alias])
    assert type(LLM(tmp_path).model).__name__.lower() == name


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize(
    "heads", [["v_head.summary.weight", "v_head.summary.bias"], ["score.weight"]]
)
def test_extra_heads_are_skipped_with_one_line(
    heads: list[str], name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_hf(name).save_pretrained(tmp_path)
    expected = logits(LLM(tmp_path))

    def add(tensors: Tensors) -> Tensors:
        tables = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
        return tensors | {head: torch.ones(1, 1) for head in heads} | tables

    rewrite_tensors(tmp_path, add)
    with caplog.at_level(logging.WARNING, "kept"):
        found = logits(LLM(tmp_path))
    assert torch.equal(found, expected)
    [line] = [message for message in caplog.messages if "skipped" in message]
    assert all(head in line for head in heads)
    assert "inv_freq" not in line
    rewrite_tensors(tmp_path, lambda tensors: tensors | {"strange.weight": torch.ones(1)})
    with pytest.raises(WeightsError, match=r"Unexpected tensors: strange\.weight\. "):
        LLM(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_the_way_from_a_pickle_leads_to_a_model_with_its_tokenizer(
    name: str, tmp_path: Path
) -> None:
    folder = tmp_path / "old one"
    hf = make(name)
    hf.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "<unk>": 2}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(folder / "tokenizer.json"))
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    expected = LLM(folder)
    (folder / "model.safetensors").unlink()
    torch.save(hf.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(UnsupportedFormatError, match="is pickled") as caught:
        LLM(folder)
    recipe = textwrap.dedent(str(caught.value).split("\n\n", 1)[1])
    exec(recipe, {})
    found = LLM(f"{folder}-safetensors")
    for llm in (found, expected):
        assert llm.tokenizer is not None
        assert llm.tokenizer.encode("b a") == [1, 0]
    for ours, theirs in zip(
        found.model.state_dict().values(), expected.model.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)
    if name != "t5":
        assert torch.equal(logits(found), logits(expected))
