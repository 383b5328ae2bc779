"""A T5 with a tokenizer, as a user meets it: text, streams, stop strings, info, plan, refusals."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

from cli.running import kept
from kept import LLM, make_cache

CORPUS = ["translate English to German: The house is wonderful.", "Das Haus ist wunderbar."] * 9
PROMPT = "translate English to German: The house"
OPTIONS = ("--max-new-tokens", 12, "--no-repeat-ngram-size", 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "t5"
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.decoder = decoders.Metaspace()
    specials = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=specials, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    size = tokenizer.get_vocab_size()
    config = T5Config(
        vocab_size=size, d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=3,
        decoder_start_token_id=0, n_positions=64,
    )  # fmt: skip
    torch.manual_seed(5)
    model = T5ForConditionalGeneration(config)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "norm" not in name:
                weights.normal_(0, 0.05 if name.endswith(".q.weight") else 0.4)
    model.save_pretrained(path)
    tokenizer.save(str(path / "tokenizer.json"))
    declared = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "additional_special_tokens": []}
    (path / "tokenizer_config.json").write_text(json.dumps(declared))
    return path


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    """What transformers answers, its tokenizer included."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = T5ForConditionalGeneration.from_pretrained(folder)
    inputs = tokenizer(PROMPT, return_tensors="pt")
    [row] = model.generate(**inputs, max_new_tokens=12, no_repeat_ngram_size=1, do_sample=False)
    found: str = tokenizer.decode(row, skip_special_tokens=True)
    assert len(found) > 10
    return found


def test_the_answer_without_the_prompt(folder: Path, text: str) -> None:
    result = kept("generate", PROMPT, "-m", folder, *OPTIONS)
    assert result.exit_code == 0
    assert result.stdout == text + "\n"
    echoed = kept("generate", PROMPT, "-m", folder, *OPTIONS, "--echo")
    assert echoed.stdout == PROMPT + text + "\n"


def test_a_report(folder: Path, text: str) -> None:
    result = kept("generate", PROMPT, "-m", folder, *OPTIONS, "--json")
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["text"] == text
    assert found["prompt_tokens"] == len(LLM(folder).tokenizer.encode(PROMPT))
    assert found["cache_bytes"] > 0


def test_a_stream_and_a_stop_string(folder: Path, text: str) -> None:
    llm = LLM(folder)
    options = {"max_new_tokens": 12, "no_repeat_ngram_size": 1}
    assert "".join(llm.stream(PROMPT, **options)) == text
    stop = text[4:7]
    [stopped] = llm.generate(PROMPT, stop_strings=[stop], **options)
    assert stopped.text == text[: text.index(stop)]
    assert stopped.finish_reason == "stop"
    [begun] = llm.generate("", **options)  # the end-of-sequence token alone
    assert begun.prompt_tokens == 1


def test_a_stop_string_that_is_a_special_token(folder: Path) -> None:
    llm = LLM(folder)
    [free] = llm.generate(PROMPT, max_new_tokens=2, no_repeat_ngram_size=1)
    bias = [[[*free.token_ids[:2], 2], 1000.0]]  # <unk> after the second token
    options = {"max_new_tokens": 12, "no_repeat_ngram_size": 1, "sequence_bias": bias}
    [found] = llm.generate(PROMPT, stop_strings="<unk>", **options)
    assert found.token_ids == (*free.token_ids[:2], 2)
    assert found.text == llm.tokenizer.decode(free.token_ids[:2])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = T5ForConditionalGeneration.from_pretrained(folder)
    inputs = tokenizer(PROMPT, return_tensors="pt")
    [row] = model.generate(**inputs, **options)  # its stop strings need letters this lacks
    assert found.token_ids == tuple(row[1:4].tolist())


def test_the_start_token_of_generation_config(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    model = T5ForConditionalGeneration.from_pretrained(folder)
    ids = torch.tensor([LLM(folder).tokenizer.encode(PROMPT)])
    place = tmp_path / "generation_config.json"
    place.write_text(json.dumps({"decoder_start_token_id": 7, "eos_token_id": 1}))
    expected = model.generate(
        ids, decoder_start_token_id=7, max_new_tokens=5, eos_token_id=1, no_repeat_ngram_size=1
    )
    [found] = LLM(tmp_path).generate(PROMPT, max_new_tokens=5, no_repeat_ngram_size=1)
    assert found.token_ids == tuple(expected[0, 1:].tolist())
    place.write_text(json.dumps({"decoder_start_token_id": "x"}))
    result = kept("generate", PROMPT, "-m", tmp_path)
    assert result.exit_code == 1
    assert "decoder_start_token_id = 'x'" in result.stderr


def test_chat_explain_and_bench_refuse(folder: Path) -> None:
    result = kept("chat", "-m", folder)
    assert result.exit_code == 2
    assert "is an encoder-decoder model" in result.stderr
    result = kept("explain", PROMPT, "-m", folder)
    assert result.exit_code == 2
    assert "is an encoder-decoder model, whose cache holds a prompt that its" in result.stderr
    for command in ("decode", "prefill", "cache", "quality"):
        result = kept("bench", command, "--model", folder)
        assert result.exit_code == 2, result.output
        assert "kept bench measures decoders" in result.stderr


def test_info(folder: Path) -> None:
    found = json.loads(kept("info", folder, "--json").stdout)["model"]
    assert (found["num_layers"], found["is_encoder_decoder"]) == (2, True)
    shapes = LLM(folder).model.kv_shapes
    cache = make_cache(shapes, "static", max_cache_len=1)
    assert found["bytes_per_token"]["float32"] == cache.num_bytes
    assert found["bytes_per_input_token"]["float32"] == 2 * 2 * 3 * 8 * 4
    assert found["not_native"] is None
    shown = kept("info", folder).stdout
    assert "attends the encoder's input" in shown
    assert "bytes per input token" in shown


def test_a_plan_is_what_the_cache_takes(folder: Path) -> None:
    result = kept(
        *("plan", folder, "--context", 50, "--input-length", 33, "--dtype", "float32"),
        *("--kv-dtype", "int8", "--json"),
    )
    plan = json.loads(result.stdout)
    model = LLM(folder).model
    cache = make_cache(model.kv_shapes, "static", max_cache_len=50, kv_dtype="int8")
    model(torch.ones(1, 33, dtype=torch.int64), None, torch.zeros(1, 50, dtype=torch.int64),
          cache=cache)  # fmt: skip
    static = next(row for row in plan["rows"] if row["cache"] == "static")
    assert static["cache_bytes"] == cache.num_bytes
    assert plan["input_length"] == 33
    assert "of inputs" in kept("plan", folder).stdout
    refused = kept("plan", "--shape", "gpt2", "--input-length", 5)
    assert refused.exit_code == 2
    assert "this model is a decoder" in refused.stderr
