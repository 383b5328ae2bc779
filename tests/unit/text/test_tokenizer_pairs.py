"""Files of one folder that disagree: which of them counts is what transformers says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer
from transformers.models.auto.tokenization_auto import (
    MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS,
    TOKENIZER_MAPPING_NAMES,
)

from kept.errors import TokenizerError
from kept.models import FAMILIES
from kept.text import Tokenizer
from kept.text.pipeline import resolve_tokenizer_class
from kept.text.tokenizer_classes import GENERIC

from . import conftest as kinds

TEXTS = (
    "Hello world",
    " café  1234 isn't, is it ?\n\nNew<s>x</s>",
    "é 🙂 ABC\u0301 ünïcode",
    "<|endoftext|>a  <tool> b<pad>[CLS] [SEP]x <mask> y[MASK]",
    "<extra_id_0> The fox<unk>.<bos><eos><0x41>",
    "",
)
BYTE_LEVEL = (
    *("CodeGenTokenizer", "DebertaTokenizer", "GPT2Tokenizer", "GPTNeoXTokenizerFast"),
    *("Qwen2TokenizerFast", "RobertaTokenizerFast", "PreTrainedTokenizerFast"),
)
# One place against another: a setting of tokenizer_config.json, or a file, that tokenizer.json (or
# an older file) contradicts in the tokenizers below.
SETTINGS: dict[str, dict[str, Any]] = {
    "none": {},
    "prefix space": {"add_prefix_space": True},
    "no prefix space": {"add_prefix_space": False},
    "legacy": {"legacy": True},
    "bos and eos": {"add_bos_token": True, "add_eos_token": True},
    "other tokens": {"bos_token": "</s>", "eos_token": "<s>"},
    "no bos": {"bos_token": None, "add_bos_token": True},
    "case": {"do_lower_case": False, "tokenize_chinese_chars": False, "strip_accents": True},
    "clean up": {"clean_up_tokenization_spaces": True},
    "split": {"split_special_tokens": True},
    "extra": {"additional_special_tokens": ["<tool>", "<other>"]},
    "extra by name": {"extra_special_tokens": {"tool_token": "<tool>"}, "image_token": "<image>"},
    "added": {
        "added_tokens_decoder": {
            "0": {"content": "<|endoftext|>", "lstrip": True, "special": True},
            "600": {"content": "<tool>", "rstrip": True, "special": False},
        }
    },
    "lengths": {"model_max_length": 3, "padding_side": "left", "truncation_side": "left"},
}
OLDER_FILES: dict[str, dict[str, Any]] = {
    "special_tokens_map.json": {"eos_token": {"content": "</s>"}, "pad_token": "<pad>"},
    "added_tokens.json": {"<plain>": 420, "<s>": 421},
}


def byte_level(*, contradicting: bool) -> dict[str, Any]:
    backend = kinds.byte_level(["<|endoftext|>", "<s>", "</s>"])
    backend.add_tokens([AddedToken("<tool>", lstrip=True), AddedToken("ünïcode", normalized=True)])
    state: dict[str, Any] = json.loads(backend.to_str())
    if contradicting:
        state["pre_tokenizer"]["add_prefix_space"] = True
        state["normalizer"] = {"type": "Lowercase"}
        state["model"].update(ignore_merges=True, unk_token="<s>", fuse_unk=True)
        state["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        }
        state["truncation"] = {
            **{"direction": "Right", "max_length": 3},
            **{"strategy": "LongestFirst", "stride": 0},
        }
    return state


def write(folder: Path, state: dict[str, Any], model_type: str, **config: Any) -> Path:
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(state), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def assert_same(folder: Path, *more: str) -> None:
    ours, theirs = Tokenizer.from_folder(folder), AutoTokenizer.from_pretrained(folder)
    assert ours.special_tokens == theirs.special_tokens_map
    assert ours.vocab_size == len(theirs)
    for text in (*TEXTS, *more):
        for special in (True, False):
            ids = theirs.encode(text, add_special_tokens=special)
            assert ours.encode(text, add_special_tokens=special) == ids
            assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
            raw = theirs.decode(ids, skip_special_tokens=False)
            assert ours.decode(ids, skip_special_tokens=False) == raw


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_byte_level_classes(tmp_path: Path, name: str, setting: str) -> None:
    for i, contradicting in enumerate((True, False)):
        state = byte_level(contradicting=contradicting)
        config = {"tokenizer_class": name, **SETTINGS[setting]}
        assert_same(write(tmp_path / str(i), state, "llama", **config))


def test_every_family_has_the_class_that_transformers_registers() -> None:
    generic = ("TokenizersBackend", "PreTrainedTokenizerFast", "PythonBackend")
    for family in FAMILIES:
        registered = TOKENIZER_MAPPING_NAMES.get(family)
        expected = GENERIC if registered in (None, *generic) else registered.removesuffix("Fast")
        assert resolve_tokenizer_class(None, family) == expected, family
        if registered in generic:  # which wins over what a folder declares
            assert resolve_tokenizer_class("GPT2Tokenizer", family) == GENERIC, family
        wrong = family in MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS
        if registered not in generic:
            expected = registered if wrong and registered else "GPT2Tokenizer"
            assert resolve_tokenizer_class("GPT2Tokenizer", family) == expected, family


@pytest.mark.parametrize(
    "model_type",
    ["gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma", "cohere", "gpt_neox", "opt", "phi3"],
)
@pytest.mark.parametrize("name", [None, "GPT2Tokenizer", "LlamaTokenizerFast", "Unheard"])
def test_the_model_type_against_the_class(
    tmp_path: Path, model_type: str, name: str | None
) -> None:
    config = {} if name is None else {"tokenizer_class": name}
    if model_type == "gemma" and name is None:
        return  # a byte-level file of a Gemma has no tokens of its own to compare
    folder = write(tmp_path / "x", byte_level(contradicting=True), model_type, **config)
    assert_same(folder)
    # tokenizer_class in config.json counts where tokenizer_config.json has none.
    (folder / "config.json").write_text(
        json.dumps({"model_type": model_type, "tokenizer_class": "GPT2Tokenizer"})
    )
    assert_same(folder)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(
    ("kind", "name", "model_type"),
    [
        ("llama_style", "LlamaTokenizer", "llama"),
        ("llama_style", "CodeLlamaTokenizer", "llama"),
        ("llama_style", "GemmaTokenizer", "gemma3_text"),
        ("llama_style", None, "gemma"),
        ("wordpiece", "BertTokenizer", "gpt2"),
        ("wordpiece", None, "llama"),
        ("unigram", None, "llama"),
        ("t5_style", "T5Tokenizer", "t5"),
    ],
)
def test_other_classes(
    tmp_path: Path, kind: str, name: str | None, model_type: str, setting: str
) -> None:
    make: Callable[..., Any] = getattr(kinds, kind)
    arguments = [True] if kind == "t5_style" else []
    config = ({} if name is None else {"tokenizer_class": name}) | SETTINGS[setting]
    assert_same(write(tmp_path / "x", json.loads(make(*arguments).to_str()), model_type, **config))


@pytest.mark.parametrize("older", OLDER_FILES)
@pytest.mark.parametrize("setting", ["none", "other tokens", "extra", "added"])
def test_older_files_against_newer(tmp_path: Path, older: str, setting: str) -> None:
    for name in ("GPT2Tokenizer", "PreTrainedTokenizerFast"):
        state = byte_level(contradicting=False)
        config = {"tokenizer_class": name, **SETTINGS[setting]}
        folder = write(tmp_path / name, state, "llama", **config)
        (folder / older).write_text(json.dumps(OLDER_FILES[older]))
        assert_same(folder)


def without_json(folder: Path) -> Path:
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    merges = "\n".join(["#version: 0.2", *map(" ".join, model["merges"])])
    (folder / "merges.txt").write_text(merges + "\n", encoding="utf-8")
    (folder / "tokenizer.json").unlink()
    return folder


@pytest.mark.parametrize(
    "name",
    [*BYTE_LEVEL[:-1], "BartTokenizer", "LEDTokenizer", "LongformerTokenizer", "MvpTokenizer"],
)
@pytest.mark.parametrize("setting", ["none", "prefix space", "bos and eos", "other tokens"])
def test_vocab_and_merges_have_the_tokens_of_their_class(
    tmp_path: Path, name: str, setting: str
) -> None:
    state = byte_level(contradicting=False)
    config = {"tokenizer_class": name, **SETTINGS[setting]}
    assert_same(without_json(write(tmp_path / "x", state, "t5", **config)))


@pytest.mark.parametrize("model_type", ["gpt_neox", "opt", "qwen3_moe"])
def test_vocab_and_merges_of_a_family_need_no_class(tmp_path: Path, model_type: str) -> None:
    state = byte_level(contradicting=False)
    config = {"add_bos_token": True, "bos_token": "</s>"}
    assert_same(without_json(write(tmp_path / "x", state, model_type, **config)))


def words_alone(folder: Path, **config: Any) -> Path:
    folder.mkdir()
    vocabulary = kinds.wordpiece().get_vocab()
    words = sorted(vocabulary, key=lambda word: vocabulary[word])
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return folder


@pytest.mark.parametrize("name", ["BertTokenizer", "BertTokenizerFast"])
@pytest.mark.parametrize("setting", ["none", "case", "other tokens", "extra", "added", "clean up"])
def test_words_alone_are_those_of_bert(tmp_path: Path, name: str, setting: str) -> None:
    config = {"tokenizer_class": name, **SETTINGS[setting]}
    assert_same(words_alone(tmp_path / "x", **config), "The quick brown Fox", "ÀÉ 你好", "[CLS]")


def test_words_of_other_classes_are_refused_by_name(tmp_path: Path) -> None:
    for i, name in enumerate(("BertweetTokenizer", "GPT2Tokenizer")):
        folder = words_alone(tmp_path / str(i), tokenizer_class=name)
        with pytest.raises(TokenizerError, match=rf"has vocab\.txt but no .*'{name}'"):
            Tokenizer.from_folder(folder)
    folder = words_alone(tmp_path / "x", tokenizer_class="BertTokenizer")
    (folder / "vocab.txt").write_bytes(b"\xff\xfe\n")
    with pytest.raises(TokenizerError, match=r"vocab\.txt cannot be read as words"):
        Tokenizer.from_folder(folder)


@pytest.mark.parametrize(
    "name", ["CLIPTokenizer", "WhisperTokenizer", "LlamaTokenizer", "GemmaTokenizer", "Unheard"]
)
def test_vocab_and_merges_of_other_classes_are_refused_by_name(tmp_path: Path, name: str) -> None:
    state = byte_level(contradicting=False)
    folder = without_json(write(tmp_path / "x", state, "llama", tokenizer_class=name))
    with pytest.raises(TokenizerError, match=f"tokenizer_class '{name}' splits text is not in"):
        Tokenizer.from_folder(folder)


def test_vocab_and_merges_without_a_class_are_refused(tmp_path: Path) -> None:
    folder = without_json(write(tmp_path / "x", byte_level(contradicting=False), "llama"))
    with pytest.raises(TokenizerError, match="without a tokenizer_class"):
        Tokenizer.from_folder(folder)


def test_a_bos_that_the_prompt_begins_with_is_read_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = json.loads(kinds.llama_style().to_str())
    folder = write(tmp_path / "x", state, "mistral", bos_token="<s>", eos_token="</s>")
    tokenizer = Tokenizer.from_folder(folder)
    once = tokenizer.encode("[INST] hi [/INST]")
    assert once[0] == tokenizer.bos_token_id
    templated = tokenizer.encode("<s>[INST] hi [/INST]")
    assert templated[:2] == [once[0]] * 2  # as in transformers
    for _ in range(2):
        assert tokenizer.encode_prompt("<s>[INST] hi [/INST]") == templated[1:]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "<s>" in caplog.text
    assert tokenizer.encode_prompt("[INST] hi [/INST]") == once
    assert tokenizer.encode_prompt("") == tokenizer.encode("")
    twice = tokenizer.encode_prompt("<s><s>x")
    assert twice == tokenizer.encode("<s>x")
