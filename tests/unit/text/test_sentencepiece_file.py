"""Tokenizers out of a SentencePiece file alone: the ids that transformers gives for the folder."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from transformers import AutoTokenizer

from kept.errors import TokenizerError
from kept.text import Tokenizer, find_tokenizer

from .conftest import CORPUS

TEXTS = (
    "",
    " ",
    "The quick brown fox isn't 12345 lazy.",
    "  two spaces,   three\n\n\nlines\t\ttabs  ",
    "naïve café 你好,世界 🙂 \u00a0ﬁ ①",
    "<s>[INST] x </s><extra_id_3> <start_of_turn>user",
)


def train(path: Path, kind: str, **options: Any) -> Path:
    corpus = path.parent / "corpus.txt"
    corpus.write_text("\n".join(CORPUS * 4))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(path.with_suffix("")),
        model_type=kind,
        vocab_size=options.pop("vocab_size", 380),
        minloglevel=2,
        **options,
    )
    return path


@cache
def trained(family: str) -> bytes:
    with TemporaryDirectory() as folder:
        return train_family(family, Path(folder)).read_bytes()


def folder_of(family: str, folder: Path) -> Path:
    """A checkpoint folder without tokenizer.json."""
    name = "spiece.model" if family == "t5" else "tokenizer.model"
    (folder / name).write_bytes(trained(family))
    (folder / "config.json").write_text(json.dumps({"model_type": family}))
    return folder


def train_family(family: str, folder: Path) -> Path:
    bytes_too = {"byte_fallback": True, "vocab_size": 420, "character_coverage": 0.98}
    if family == "t5":
        marks = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
        return train(folder / "spiece.model", "unigram", **marks, hard_vocab_limit=False)
    if family == "gemma":
        marks = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
        symbols = ["<mask>", "<start_of_turn>", "▁▁", "▁▁▁", "\n\n"]
        plain = {"normalization_rule_name": "identity", "add_dummy_prefix": False}
        names = {"bos_piece": "<bos>", "eos_piece": "<eos>"}
        return train(
            folder / "tokenizer.model",
            "bpe",
            **{**marks, **bytes_too, **plain, **names},
            user_defined_symbols=symbols,
            remove_extra_whitespaces=False,
        )
    plain = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    return train(folder / "tokenizer.model", "bpe", **bytes_too, **plain)


CLASSES = {"gemma": "GemmaTokenizer", "llama": "LlamaTokenizer", "t5": "T5Tokenizer"}


def load(folder: Path) -> Tokenizer:
    found = find_tokenizer(folder)
    assert found is not None
    return found


@pytest.mark.parametrize("family", CLASSES)
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"add_bos_token": True, "add_eos_token": True},
        {"add_bos_token": True, "extra_special_tokens": ["<|user|>"], "legacy": False},
        {"additional_special_tokens": ["<|user|>"]},
    ],
)
def test_ids_are_those_of_transformers(family: str, more: dict[str, Any], tmp_path: Path) -> None:
    folder = folder_of(family, tmp_path)
    declared = {"tokenizer_class": CLASSES[family], **more}
    (folder / "tokenizer_config.json").write_text(json.dumps(declared))
    ours, theirs = load(folder), AutoTokenizer.from_pretrained(folder)
    assert ours.vocab_size == len(theirs)
    for text in TEXTS:
        assert ours.encode(text) == theirs(text).input_ids, text
        plain = theirs(text, add_special_tokens=False).input_ids
        assert ours.encode(text, add_special_tokens=False) == plain, text
        assert ours.decode(plain, skip_special_tokens=False) == theirs.decode(plain), text
        shown = theirs.decode(plain, skip_special_tokens=True)
        assert ours.decode(plain, skip_special_tokens=True) == shown, text


def test_a_class_that_does_not_read_it_is_refused(tmp_path: Path) -> None:
    folder = folder_of("llama", tmp_path)
    for name in ("T5Tokenizer", "XLMRobertaTokenizer"):
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
        with pytest.raises(TokenizerError, match=rf"how tokenizer_class '{name}' reads it"):
            find_tokenizer(folder)


def test_damage_is_named(tmp_path: Path) -> None:
    folder = folder_of("t5", tmp_path)
    path = folder / "spiece.model"
    whole = path.read_bytes()
    for data in (b"\xff" * 50, whole[: len(whole) // 2 + 1]):
        path.write_bytes(data)
        with pytest.raises(TokenizerError, match=r"spiece\.model"):
            find_tokenizer(folder)
    path.write_bytes(b"")
    with pytest.raises(TokenizerError, match="holds no pieces"):
        find_tokenizer(folder)
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(whole)
    model.normalizer_spec.precompiled_charsmap = b"\xff\xff\xff\x7fabc"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(TokenizerError, match="precompiled_charsmap that is cut off"):
        find_tokenizer(folder)


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of("gemma", tmp_path)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(TokenizerError, match=r"pip install 'kept-llm\[sentencepiece\]'"):
        find_tokenizer(folder)
