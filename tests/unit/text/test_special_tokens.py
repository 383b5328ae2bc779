"""Special tokens that a folder declares in two places, or half: what transformers makes of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from . import conftest as kinds
from .test_tokenizer_pairs import assert_same, byte_level, write

LISTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "both": (
        {"additional_special_tokens": ["<tool>", "<X>"]},
        {"additional_special_tokens": ["<tool>"]},
    ),
    "config null": ({"additional_special_tokens": None}, {"additional_special_tokens": ["<X>"]}),
    "config empty": ({"additional_special_tokens": []}, {"additional_special_tokens": ["<X>"]}),
    "config null, new name": (
        {"extra_special_tokens": None},
        {"additional_special_tokens": ["<X>"]},
    ),
    "map": ({}, {"additional_special_tokens": ["<tool>", "<X>"]}),
    "map, new name": (
        {"additional_special_tokens": ["<tool>"]},
        {"extra_special_tokens": ["<tool>", "<X>"]},
    ),
    "map by name": (
        {"extra_special_tokens": ["<tool>"]},
        {"extra_special_tokens": {"x_token": "<X>"}},
    ),
    "null": ({"additional_special_tokens": None}, {}),
    "names": ({"extra_special_tokens": {"x_token": "<X>"}}, {}),
    "names beside a list": (
        {
            "extra_special_tokens": {"x_token": "<X>"},
            "additional_special_tokens": ["<tool>", "<other>"],
        },
        {},
    ),
    "names beside lists": (
        {"extra_special_tokens": {"x_token": "<X>"}, "additional_special_tokens": ["<other>"]},
        {"additional_special_tokens": ["<tool>"]},
    ),
}


@pytest.mark.parametrize("lists", LISTS)
@pytest.mark.parametrize(
    "name", ["PreTrainedTokenizerFast", "BartTokenizer", "CodeGenTokenizer", "T5Tokenizer"]
)
def test_lists_of_extra_tokens(tmp_path: Path, name: str, lists: str) -> None:
    config, older = LISTS[lists]
    state = byte_level(contradicting=False)
    if name == "T5Tokenizer":
        # Without ids of its own, so that those the class brings are seen.
        state = json.loads(kinds.t5_style(False).to_str())
    folder = write(tmp_path / "x", state, "t5", tokenizer_class=name, **config)
    if older:
        (folder / "special_tokens_map.json").write_text(json.dumps(older))
    assert_same(folder, "a <X> b<tool>c <other>", "<extra_id_5> <extra_id_99>")


SURROUNDING: dict[str, dict[str, Any]] = {
    "no cls": {"cls_token": None},
    "no sep": {"sep_token": None},
    "neither": {"cls_token": None, "sep_token": None},
    "no cls, other sep": {"cls_token": None, "sep_token": "[PAD]"},
    "sep of that name": {"cls_token": None, "sep_token": "None"},
}
IMAGE = {"content": "<X>"}
TYPED = {"__type": "AddedToken"}
NAMES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "an object": ({"image_token": IMAGE, "eot_token": {"content": "<s>"}}, {}),
    "of another kind": ({"image_token": {"__type": "other", **IMAGE}}, {}),
    "a token": ({"image_token": {**TYPED, **IMAGE}}, {}),
    "texts come last": ({"image_token": "<X>", "eot_token": {**TYPED, "content": "<mask>"}}, {}),
    "texts stay": ({"image_token": "<X>"}, {"image_token": "<mask>"}),
    "tokens do not stay": ({"image_token": {**TYPED, **IMAGE}}, {"image_token": "<mask>"}),
    "a list's names": (
        {"image_token": "<mask>", "extra_special_tokens": {"image_token": "<X>"}},
        {"image_token": "<other>", "eot_token": "<mask>"},
    ),
    "an object of the older file": ({"image_token": IMAGE}, {"image_token": IMAGE}),
}


@pytest.mark.parametrize("case", NAMES)
@pytest.mark.parametrize("name", ["PreTrainedTokenizerFast", "GPT2Tokenizer"])
def test_tokens_of_names_of_their_own(tmp_path: Path, name: str, case: str) -> None:
    config, older = NAMES[case]
    state = byte_level(contradicting=False)
    folder = write(tmp_path / "x", state, "llama", tokenizer_class=name, **config)
    if older:
        (folder / "special_tokens_map.json").write_text(json.dumps(older))
    assert_same(folder, "a <X> b<mask>c")


@pytest.mark.parametrize("setting", SURROUNDING)
def test_bert_without_a_token_around_the_text(tmp_path: Path, setting: str) -> None:
    state = json.loads(kinds.wordpiece().to_str())
    config = {"tokenizer_class": "BertTokenizer", **SURROUNDING[setting]}
    assert_same(write(tmp_path / "x", state, "llama", **config), "None of it")
