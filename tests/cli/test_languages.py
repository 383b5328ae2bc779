"""Models that translate between many languages, as a user meets them, against transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, MarianConfig, MarianMTModel
from translators import KINDS, make_folder, make_model, train

from cli.running import kept
from kept import LLM, machine, quantize_checkpoint
from kept.errors import OptionError

TEXT = "The garden is wonderful"
OPTIONS = {"max_new_tokens": 12, "no_repeat_ngram_size": 1}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / kind
    path.mkdir()
    make_folder(kind, path)
    return path


def expected(folder: Path, kind: str, source: str | None, target: str | None) -> str:
    """What transformers writes, with the languages where its own pipeline or its page puts them."""
    more = {} if source is None else {"src_lang": source}
    tokenizer = AutoTokenizer.from_pretrained(folder, **more)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    options: dict[str, Any] = {**OPTIONS, "do_sample": False}
    if target is not None:
        where = "decoder_start_token_id" if kind == "mbart" else "forced_bos_token_id"
        token = f"__{target}__" if kind == "m2m_100" else target
        options[where] = tokenizer.convert_tokens_to_ids(token)
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


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
def test_marian_takes_a_language_out_of_the_text(tmp_path: Path) -> None:
    found = train(tmp_path, "unigram", "source")
    (tmp_path / "source.model").rename(tmp_path / "source.spm")
    (tmp_path / "target.spm").write_bytes((tmp_path / "source.spm").read_bytes())
    listed = dict.fromkeys(["<unk>", "<pad>", "</s>", *found[3:], ">>fra<<", ">>deu<<"])
    (tmp_path / "vocab.json").write_text(json.dumps({x: i for i, x in enumerate(listed)}))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    make_model(tmp_path, MarianConfig, MarianMTModel, len(listed))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model, llm = AutoModelForSeq2SeqLM.from_pretrained(tmp_path), LLM(tmp_path)
    texts = set()
    for prompt in (TEXT, f">>fra<< {TEXT}", f">>deu<< {TEXT}"):
        given = tokenizer(prompt, return_tensors="pt")
        [row] = model.generate(**given, **OPTIONS, num_beams=3, do_sample=False)
        wanted = tokenizer.decode(row, skip_special_tokens=True)
        [completion] = llm.generate(prompt, **OPTIONS, num_beams=3)
        assert completion.text == wanted
        assert completion.prompt_tokens == given.input_ids.shape[1]
        [row] = model.generate(**given, **OPTIONS, do_sample=False)
        streamed = "".join(llm.stream(prompt, **OPTIONS))
        assert streamed == tokenizer.decode(row, skip_special_tokens=True)
        texts.add(streamed)
    assert len(texts) == 3
    if machine.NATIVE_AVAILABLE:
        rounded = LLM(quantize_checkpoint(tmp_path, tmp_path / "int8", "int8"))
        assert rounded.tokenizer is not None
        assert rounded.tokenizer.encode(TEXT) == tokenizer(TEXT).input_ids, "its pieces come along"
    with pytest.raises(OptionError, match="say in the prompt what the model takes there"):
        llm.generate(TEXT, tgt_lang="fra")
    with pytest.raises(OptionError, match="no grammar can be kept to with this tokenizer"):
        llm.generate(TEXT, regex="a+")
