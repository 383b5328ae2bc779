"""Tokenizers of models that translate or sum up: the ids that transformers gives for the folder."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from transformers import AutoTokenizer

from kept.errors import OptionError, TokenizerError
from kept.text import Tokenizer, find_tokenizer

from .test_sentencepiece_file import TEXTS, train

BPE_FILE = "sentencepiece.bpe.model"
# By class: the model type, the file of its pieces, and how these are made.
CLASSES: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "MBartTokenizer": ("mbart", BPE_FILE, "unigram", {}),
    "MBart50Tokenizer": ("mbart", BPE_FILE, "unigram", {}),
    "NllbTokenizer": ("m2m_100", BPE_FILE, "bpe", {}),
    "PegasusTokenizer": (
        "pegasus", "spiece.model", "unigram",
        {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    ),
}  # fmt: skip
CODES = ["eng_Latn", "fra_Latn", "zho_Hans"]
MORE = (
    *TEXTS,
    "x<mask> y <mask> <mask_1>z <unk_7> fr_XX en_XX</s>fra_Latn ﬁne",
)


@cache
def pieces(kind: str, file: str, marks: tuple[tuple[str, int], ...]) -> bytes:
    with TemporaryDirectory() as folder:
        options: dict[str, Any] = {**dict(marks), "vocab_size": 200, "hard_vocab_limit": False}
        return train(Path(folder) / file, kind, **options).read_bytes()


def folder_of(name: str, folder: Path, **fields: Any) -> Path:
    """With a SentencePiece file alone."""
    model_type, file, kind, marks = CLASSES[name]
    folder.mkdir(exist_ok=True)
    (folder / file).write_bytes(pieces(kind, file, tuple(marks.items())))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    declared = json.dumps({"tokenizer_class": name, **fields})
    (folder / "tokenizer_config.json").write_text(declared)
    return folder


def saved(name: str, folder: Path, **fields: Any) -> Path:
    """As transformers saves it, with tokenizer.json."""
    plain = folder_of(name, folder / "plain", **fields)
    more = {"extra_special_tokens": CODES} if name == "NllbTokenizer" else {}
    theirs = AutoTokenizer.from_pretrained(plain, **more)
    theirs.save_pretrained(folder / "saved")
    (folder / "saved" / "config.json").write_bytes((plain / "config.json").read_bytes())
    return folder / "saved"


def load(folder: Path) -> Tokenizer:
    found = find_tokenizer(folder)
    assert found is not None
    return found


def compare(folder: Path) -> None:
    ours, theirs = load(folder), AutoTokenizer.from_pretrained(folder)
    assert ours.vocab_size == len(theirs)
    assert {t for t in theirs.all_special_tokens if not ours.is_special(t)} == set()
    for text in MORE:
        ids, plain = theirs(text).input_ids, theirs(text, add_special_tokens=False).input_ids
        assert ours.encode(text) == ids, text
        assert ours.encode(text, add_special_tokens=False) == plain, text
        assert ours.decode(plain, skip_special_tokens=False) == theirs.decode(plain), text
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True), text


@pytest.mark.parametrize("name", CLASSES)
def test_a_tokenizer_json(name: str, tmp_path: Path) -> None:
    compare(saved(name, tmp_path))


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "NllbTokenizer"])
def test_a_sentencepiece_file_alone(name: str, tmp_path: Path) -> None:
    compare(folder_of(name, tmp_path))


def test_nllb_needs_its_tokenizer_json(tmp_path: Path) -> None:
    """No file of pieces says which languages come in which order."""
    with pytest.raises(TokenizerError, match=r"how tokenizer_class 'NllbTokenizer' reads it"):
        load(folder_of("NllbTokenizer", tmp_path))


@pytest.mark.parametrize(
    ("name", "source", "other", "fields"),
    [
        ("MBartTokenizer", "fr_XX", "ro_RO", {}),
        ("MBart50Tokenizer", "fr_XX", "sl_SI", {}),
        ("NllbTokenizer", "fra_Latn", "zho_Hans", {}),
        ("NllbTokenizer", "fra_Latn", "zho_Hans", {"legacy_behaviour": True}),
    ],
)
def test_languages(
    name: str, source: str, other: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    folder = saved(name, tmp_path, src_lang=source, **fields)
    compare(folder)
    ours = load(folder)
    for language in (source, other):
        theirs = AutoTokenizer.from_pretrained(folder, src_lang=language)
        for text in MORE:
            assert ours.encode_prompt(text, language) == theirs(text).input_ids
        assert ours.languages is not None
        assert ours.languages.find("tgt_lang", language) == theirs.convert_tokens_to_ids(language)
    codes = {t for t in theirs.all_special_tokens if t[0].isalpha() and "_" in t}
    assert set(ours.languages.ids) == codes
    for wrong in ("french", "", None, 5):
        with pytest.raises(OptionError, match=r"tgt_lang=.* is no language of this tokenizer"):
            ours.languages.find("tgt_lang", wrong)
    if name == "NllbTokenizer":
        with pytest.raises(OptionError, match=r"'fr_Latn' is no language.*there are fra_Latn"):
            ours.encode_prompt("x", "fr_Latn")


def test_what_is_refused(tmp_path: Path) -> None:
    pegasus = load(folder_of("PegasusTokenizer", tmp_path / "a"))
    with pytest.raises(OptionError, match="src_lang is for models that translate between many"):
        pegasus.encode_prompt("x", "en_XX")
    for fields, message in (
        ({"offset": 1}, "offset = 1, which must be a number from 2"),
        ({"unk_token": "<none>"}, "no token '<none>' of score 0"),
    ):
        with pytest.raises(TokenizerError, match=message):
            load(folder_of("PegasusTokenizer", tmp_path / "b", **fields))
    with pytest.raises(TokenizerError, match="src_lang = 5, which must be a string"):
        load(folder_of("MBartTokenizer", tmp_path / "c", src_lang=5))
    with pytest.raises(TokenizerError, match="'eng_Latn' beside every text"):
        load(folder_of("MBartTokenizer", tmp_path / "d", src_lang="eng_Latn"))


def test_bart_without_a_class_is_read_as_roberta_s(tmp_path: Path) -> None:
    from .conftest import byte_level

    tokenizer = byte_level(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.model.save(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "bart"}')
    compare(tmp_path)
    AutoTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "config.json").write_text('{"model_type": "bart"}')
    compare(tmp_path / "saved")
