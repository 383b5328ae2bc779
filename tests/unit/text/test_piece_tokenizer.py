"""Marian's and M2M-100's tokenizers: the ids and texts that transformers gives for the folder."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import sentencepiece
from transformers import AutoTokenizer
from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES

from kept.errors import OptionError, TokenizerError
from kept.text import IncrementalDetokenizer, Tokenizer, find_tokenizer

from .test_sentencepiece_file import TEXTS, train

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
CODES = ["af", "am", "en", "fr", "zu"]
MORE = (
    *TEXTS,
    ">>fra<< Hello there", ">>xxx<<Hello", ">> no code", "a >>fra<< b", ">>fra<<",
    "x </s> y<pad>z <unk>", "  ", " leading and trailing  ", "ϗ ϗϗ unknown ϗ", "__fr__ text __zz__",
)  # fmt: skip


@cache
def pieces(kind: str, vocab_size: int) -> bytes:
    with TemporaryDirectory() as folder:
        options: dict[str, Any] = {"vocab_size": vocab_size, "hard_vocab_limit": False}
        return train(Path(folder) / "x.model", kind, **options).read_bytes()


def tokens_of(data: bytes) -> list[str]:
    processor = sentencepiece.SentencePieceProcessor(model_proto=data)
    return [processor.id_to_piece(i) for i in range(processor.get_piece_size())]


def marian(folder: Path) -> Path:
    """Pieces of either side, some of which the vocabulary lacks, and languages to translate to."""
    source, target = pieces("unigram", 200), pieces("unigram", 120)
    (folder / "source.spm").write_bytes(source)
    (folder / "target.spm").write_bytes(target)
    both = dict.fromkeys([*tokens_of(source)[3:-9], *tokens_of(target)[3:]])
    listed = ["</s>", "<unk>", *both, ">>fra<<", ">>deu<<", "<pad>"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(listed))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "config.json").write_text('{"model_type": "marian"}')
    declared = {"source_lang": "eng", "target_lang": "fra", "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(declared))
    return folder


def m2m_100(folder: Path, **fields: Any) -> Path:
    data = pieces("bpe", 200)
    (folder / "sentencepiece.bpe.model").write_bytes(data)
    listed = ["<s>", "<pad>", "</s>", "<unk>", *tokens_of(data)[3:]]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(listed))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "config.json").write_text('{"model_type": "m2m_100"}')
    declared = {"tokenizer_class": "M2M100Tokenizer", **fields}
    (folder / "tokenizer_config.json").write_text(json.dumps(declared))
    listed = FAIRSEQ_LANGUAGE_CODES["m2m100"]
    named = {"additional_special_tokens": [f"__{code}__" for code in listed]}
    (folder / "special_tokens_map.json").write_text(json.dumps(named))
    return folder


FOLDERS = {"marian": marian, "m2m_100": m2m_100}


def load(folder: Path) -> Tokenizer:
    found = find_tokenizer(folder)
    assert found is not None
    return found


@pytest.mark.parametrize("name", FOLDERS)
def test_ids_and_texts_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    folder = FOLDERS[name](tmp_path)
    ours, theirs = load(folder), AutoTokenizer.from_pretrained(folder)
    assert type(theirs).__name__ in ("MarianTokenizer", "M2M100Tokenizer")
    for text in MORE:
        ids, plain = theirs(text).input_ids, theirs(text, add_special_tokens=False).input_ids
        assert ours.encode(text) == ids, text
        assert ours.encode(text, add_special_tokens=False) == plain, text
        assert ours.encode_prompt(text) == ids
        shown = theirs.decode(ids, skip_special_tokens=True)
        assert ours.decode(ids) == shown, text
        detokenizer = IncrementalDetokenizer(ours, [ids[-1]])
        told = [detokenizer.add([token]) for token in ids]
        assert "".join(told) + detokenizer.finish() == shown


def test_every_token_and_any_few(tmp_path: Path) -> None:
    """Also tokens of the other side, spaces alone, and those at both ends."""
    folder = marian(tmp_path)
    ours, theirs = load(folder), AutoTokenizer.from_pretrained(folder)
    space = ours.tokens()["▁"]
    for token_id in range(ours.vocab_size):
        for ids in ([token_id], [space, token_id, space, token_id, space]):
            shown = theirs.decode(ids, skip_special_tokens=True)
            assert ours.decode(ids) == shown, ids
            detokenizer = IncrementalDetokenizer(ours)
            assert "".join([detokenizer.add([i]) for i in ids]) + detokenizer.finish() == shown


def test_languages_of_m2m_100(tmp_path: Path) -> None:
    folder = m2m_100(tmp_path, src_lang="fr")
    ours = load(folder)
    assert ours.languages is not None
    assert list(ours.languages.ids) == FAIRSEQ_LANGUAGE_CODES["m2m100"]
    for code in CODES:
        theirs = AutoTokenizer.from_pretrained(folder, src_lang=code)
        assert ours.encode_prompt("The quick fox", code) == theirs("The quick fox").input_ids
        assert ours.languages.find("tgt_lang", code) == theirs.get_lang_id(code)
    assert ours.encode("x")[0] == ours.languages.find("src_lang", "fr")
    with pytest.raises(OptionError, match="'xx' is no language of this tokenizer"):
        ours.encode_prompt("x", "xx")
    few = load(m2m_100(tmp_path, language_codes="wmt21"))
    assert few.languages is not None
    assert list(few.languages.ids) == FAIRSEQ_LANGUAGE_CODES["wmt21"]


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = marian(tmp_path)
    with pytest.raises(OptionError, match="src_lang is for models that translate between many"):
        load(folder).encode_prompt("x", "en")
    with pytest.raises(OptionError, match="valid Unicode"):
        load(folder).encode("\ud800")
    vocabulary = json.loads((folder / "vocab.json").read_text())
    for changed, message in (
        ({**vocabulary, "x": 0}, "must give each token one of the numbers"),
        ({}, "must give each token one of the numbers"),
        ({"a": "b"}, "must give each token one of the numbers"),
        ({"a": 0, "</s>": 1, "<unk>": 2}, "has no token '<pad>', which the tokenizer names"),
    ):
        (folder / "vocab.json").write_text(json.dumps(changed))
        with pytest.raises(TokenizerError, match=message):
            load(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "source.spm").write_bytes(b"\xff" * 40)
    with pytest.raises(TokenizerError, match=r"source\.spm is no SentencePiece file"):
        load(folder)
    (folder / "tokenizer_config.json").write_text('{"separate_vocabs": true}')
    with pytest.raises(TokenizerError, match="a vocabulary for each side"):
        load(folder)
    (tmp_path / "other").mkdir()
    other = m2m_100(tmp_path / "other", language_codes="all")
    with pytest.raises(TokenizerError, match="language_codes = 'all', which must be one of m2m100"):
        load(other)
    m2m_100(other)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(TokenizerError, match=r"pip install 'kept-llm\[sentencepiece\]'"):
        load(other)
