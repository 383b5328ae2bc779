"""Models that translate between many languages, as a user meets them, against transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MBartConfig,
    MBartForConditionalGeneration,
)

from cli.running import kept
from kept import LLM
from kept.errors import OptionError

CORPUS = ["The house is wonderful and the garden is too.", "La maison est belle, le jardin aussi."]
TEXT = "The garden is wonderful"
OPTIONS = {"max_new_tokens": 12, "no_repeat_ngram_size": 1}
# The class of the tokenizer, the kind of its pieces, the languages' codes, the model's two classes.
KINDS: dict[str, tuple[str, str, list[str], tuple[type[Any], type[Any]]]] = {
    "nllb": (
        "NllbTokenizer", "bpe", ["eng_Latn", "fra_Latn"],
        (M2M100Config, M2M100ForConditionalGeneration),
    ),
    "mbart": (
        "MBartTokenizer", "unigram", ["en_XX", "fr_XX"],
        (MBartConfig, MBartForConditionalGeneration),
    ),
    "mbart50": (
        "MBart50Tokenizer", "unigram", ["en_XX", "fr_XX"],
        (MBartConfig, MBartForConditionalGeneration),
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mBART's kinds with SentencePiece's file alone, NLLB with tokenizer.json, as on the hub."""
    path = tmp_path_factory.mktemp("models") / kind
    path.mkdir()
    name, pieces, codes, (config_class, model_class) = KINDS[kind]
    (path / "corpus.txt").write_text("\n".join(CORPUS * 8))
    sentencepiece.SentencePieceTrainer.train(
        input=str(path / "corpus.txt"),
        model_prefix=str(path / "sentencepiece.bpe"),
        model_type=pieces,
        vocab_size=60,
        minloglevel=2,
        hard_vocab_limit=False,
    )
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
    (path / "config.json").write_text(json.dumps({"model_type": config_class.model_type}))
    more = {"extra_special_tokens": codes} if kind == "nllb" else {}
    tokenizer = AutoTokenizer.from_pretrained(path, **more)
    if kind == "nllb":
        tokenizer.save_pretrained(path)
    torch.manual_seed(3)
    sizes = {
        "d_model": 24, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 3,
        "decoder_attention_heads": 3, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
        "max_position_embeddings": 64, "decoder_start_token_id": 2, "forced_eos_token_id": None,
    }  # fmt: skip
    model = model_class(config_class(vocab_size=len(tokenizer), **sizes))
    with torch.no_grad():
        for parameter_name, weights in model.named_parameters():
            if "norm" not in parameter_name:
                weights.normal_(0, 0.4)
    # A padding token in a text has no place in transformers' M2M-100.
    model.generation_config.suppress_tokens = [tokenizer.pad_token_id]
    model.save_pretrained(path)
    return path


def expected(folder: Path, kind: str, source: str | None, target: str | None) -> str:
    """What transformers writes, with the languages where its own pipeline or its page puts them."""
    more = {} if source is None else {"src_lang": source}
    tokenizer = AutoTokenizer.from_pretrained(folder, **more)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    options: dict[str, Any] = {**OPTIONS, "do_sample": False}
    if target is not None:
        where = "decoder_start_token_id" if kind == "mbart" else "forced_bos_token_id"
        options[where] = tokenizer.convert_tokens_to_ids(target)
    [row] = model.generate(**tokenizer(TEXT, return_tensors="pt"), **options)
    text: str = tokenizer.decode(row[1:], skip_special_tokens=True)
    return text


def test_each_pair_of_languages(folder: Path, kind: str) -> None:
    llm, (one, other) = LLM(folder), KINDS[kind][2]
    found = {}
    for source, target in ((None, None), (one, other), (other, one), (None, other)):
        wanted = expected(folder, kind, source, target)
        given = {"src_lang": source, "tgt_lang": target}
        [completion] = llm.generate(TEXT, **given, **OPTIONS)
        stream = llm.stream(TEXT, **given, **OPTIONS)
        assert completion.text == wanted == "".join(stream)
        found[source, target] = completion.text
    assert found[None, other] == found[one, other], "English is where nothing is said"
    assert len(set(found.values())) == 3


def test_on_the_command_line(folder: Path, kind: str) -> None:
    one, other = KINDS[kind][2]
    flags = ("--max-new-tokens", 12, "--no-repeat-ngram-size", 1)
    wanted = expected(folder, kind, other, one)
    asked = ("generate", TEXT, "--model", folder, *flags, "--src-lang", other, "--tgt-lang", one)
    assert kept(*asked).stdout == wanted + "\n"
    assert json.loads(kept(*asked, "--json").stdout)["text"] == wanted


def test_what_is_refused(folder: Path, kind: str) -> None:
    llm, (one, other) = LLM(folder), KINDS[kind][2]
    for call, message in (
        (lambda: llm.generate(TEXT, src_lang="english"), "src_lang='english' is no language"),
        (lambda: llm.stream(TEXT, tgt_lang="english"), "tgt_lang='english' is no language"),
        (lambda: llm.generate([5, 6], src_lang=one), "a prompt is token ids already"),
        (lambda: LLM().generate(TEXT, tgt_lang=one), "tgt_lang is for models that translate"),
    ):
        with pytest.raises(OptionError, match=message):
            call()
    if kind != "mbart":
        with pytest.raises(OptionError, match="both say what a text begins with"):
            llm.generate(TEXT, tgt_lang=other, forced_bos_token_id=5)
    wrong = kept("generate", TEXT, "--model", folder, "--tgt-lang", "xx")
    assert wrong.exit_code == 2
    assert "tgt_lang='xx' is no language of this tokenizer" in wrong.stderr
