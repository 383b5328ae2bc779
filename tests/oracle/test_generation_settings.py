"""Settings in a checkpoint's files, in new folders and in old ones, against transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from kept import LLM, OptionError

from . import seq2seq
from .generation import prompts
from .zoo import VOCAB, make_hf

GENERATION, CONFIG = "generation_config.json", "config.json"
PROMPTS = prompts(5, 3)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt2")
    make_hf("gpt2").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t5")
    seq2seq.make_hf("v1.1").save_pretrained(folder)
    return folder


@pytest.fixture
def having(tmp_path: Path) -> Callable[..., Path]:
    """A copy of a folder with fields more in its config.json, and this generation_config.json."""

    def make(folder: Path, config: dict[str, Any], generation: dict[str, Any] | None) -> Path:
        for file in folder.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        own = json.loads((tmp_path / CONFIG).read_text())
        (tmp_path / CONFIG).write_text(json.dumps(own | config))
        (tmp_path / GENERATION).unlink()
        if generation is not None:
            (tmp_path / GENERATION).write_text(json.dumps(generation))
        return tmp_path

    return make


def theirs(folder: Path, prompt: list[int], **options: Any) -> tuple[int, ...]:
    """What transformers' own reading of the folder writes, without the padding after its end."""
    if "t5" in (folder / CONFIG).read_text():
        hf, skipped = AutoModelForSeq2SeqLM.from_pretrained(folder).eval(), 1
    else:
        hf, skipped = AutoModelForCausalLM.from_pretrained(folder).eval(), len(prompt)
    ids = torch.tensor([prompt])
    [row] = hf.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **options)
    return tuple(row[skipped:].tolist())


def upto_padding(tokens: tuple[int, ...], length: int) -> tuple[int, ...]:
    assert set(tokens[length:]) <= {0}
    return tokens[:length]


def first_tokens(folder: Path, count: int) -> list[int]:
    return list(LLM(folder).generate(PROMPTS[0], max_new_tokens=count)[0].token_ids)


SETTINGS: list[dict[str, Any]] = [
    {"max_length": 12},
    {"max_length": 40, "repetition_penalty": 1.4},
    {"no_repeat_ngram_size": 2, "max_length": 60},
    {"num_beams": 3, "length_penalty": 0.5, "early_stopping": True, "max_length": 20},
    {"num_beams": 3, "no_repeat_ngram_size": 2, "renormalize_logits": True, "max_length": 20},
    {"min_length": 16, "max_length": 24},
    {"max_length": 20, "sequence_bias": [[[3], 5.0], [[3, 4], 9.0]]},
    {"max_length": 20, "forced_eos_token_id": 5},
    {"max_length": 24, "exponential_decay_length_penalty": [3, 1.5]},
    {"max_length": 20, "encoder_repetition_penalty": 1.7, "encoder_no_repeat_ngram_size": 2},
    {"max_length": 20, "use_cache": False},
]


@pytest.mark.parametrize("place", [CONFIG, GENERATION])
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(s))
def test_settings_are_obeyed(
    gpt2: Path, having: Callable[..., Path], settings: dict[str, Any], place: str
) -> None:
    free = first_tokens(gpt2, 30)
    latest = max(free, key=free.index)
    settings = {"eos_token_id": [latest, VOCAB - 1], **settings}
    in_config, in_generation = (settings, None) if place == CONFIG else ({}, settings)
    folder = having(gpt2, in_config, in_generation)
    for prompt, found in zip(PROMPTS, LLM(folder).generate(PROMPTS), strict=True):
        expected = theirs(folder, prompt)
        assert found.token_ids == upto_padding(expected, len(found.token_ids))


def test_suppressed_forced_and_bad_tokens(gpt2: Path, having: Callable[..., Path]) -> None:
    free = first_tokens(gpt2, 4)
    settings = {
        "begin_suppress_tokens": free[:1],
        "suppress_tokens": free[1:3],
        "bad_words_ids": [[free[3]], [1, 2]],
        "forced_bos_token_id": 4,
        "max_length": 20,
    }
    folder = having(gpt2, settings, None)
    for prompt in ([7], PROMPTS[0]):
        [found] = LLM(folder).generate([prompt])
        assert found.token_ids == theirs(folder, prompt)
        assert found.token_ids != first_tokens(gpt2, len(found.token_ids))


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 3, "min_length": 6, "max_length": 12, "length_penalty": 2.0},
        {"forced_bos_token_id": 9, "begin_suppress_tokens": [11], "max_length": 8},
        {"encoder_no_repeat_ngram_size": 1, "max_length": 12},
        {"decoder_start_token_id": 6, "max_length": 9},
        {"decoder_start_token_id": None, "bos_token_id": 8, "max_length": 9},
    ],
    ids=lambda s: "-".join(s),
)
def test_an_old_t5(t5: Path, having: Callable[..., Path], settings: dict[str, Any]) -> None:
    folder = having(t5, {"eos_token_id": 1, **settings}, None)
    for prompt, found in zip(PROMPTS, LLM(folder).generate(PROMPTS), strict=True):
        expected = theirs(folder, prompt)
        assert found.token_ids == upto_padding(expected, len(found.token_ids))


def test_generation_config_counts_alone(gpt2: Path, having: Callable[..., Path]) -> None:
    """Where both files are there, nothing is read from the other, not even where a text ends."""
    eos = first_tokens(gpt2, 6)[5]
    folder = having(gpt2, {"eos_token_id": eos, "repetition_penalty": 3.0}, {"max_new_tokens": 20})
    [found] = LLM(folder).generate([PROMPTS[0]])
    assert found.token_ids == theirs(folder, PROMPTS[0])
    assert len(found.token_ids) == 20


def test_settings_of_the_decoders_config(gpt2: Path, having: Callable[..., Path]) -> None:
    nested = {"text_config": {"max_length": 14, "repetition_penalty": 1.5}, "max_length": 11}
    folder = having(gpt2, nested, None)
    checkpoint = LLM(folder).checkpoint
    assert checkpoint.generation_config["max_length"] == 11
    assert checkpoint.generation_config["repetition_penalty"] == 1.5


def test_files_that_ask_for_what_kept_lacks(gpt2: Path, having: Callable[..., Path]) -> None:
    llm = LLM(having(gpt2, {"guidance_scale": 1.5, "sliding_window": 3}, None))
    with pytest.raises(OptionError, match=r"config.json sets guidance_scale=1.5.*remove the field"):
        llm.generate([PROMPTS[0]])
    llm = LLM(having(gpt2, {"repetition_penalty": -1}, None))
    with pytest.raises(OptionError, match=r"^config.json's repetition_penalty=-1"):
        llm.generate([PROMPTS[0]])


def test_transformers_names_among_keywords(gpt2: Path) -> None:
    llm = LLM(gpt2)
    [plain] = llm.generate([PROMPTS[0]], max_new_tokens=8)
    harmless = {"pad_token_id": 0, "return_dict_in_generate": True, "guidance_scale": 1.0}
    [found] = llm.generate([PROMPTS[0]], max_new_tokens=8, **harmless)
    assert found.token_ids == plain.token_ids
    [ruled] = llm.generate([PROMPTS[0]], max_new_tokens=8, suppress_tokens=[plain.token_ids[0]])
    assert plain.token_ids[0] not in ruled.token_ids
    for options, named in (
        ({"penalty_alpha": 0.6}, "penalty_alpha=0.6 is an option of transformers that kept does"),
        ({"max_length": 9}, "max_length is no option of a call; pass max_new_tokens"),
        ({"max_time": 1.0}, r"end a stream\(\)"),
        ({"nonsense": 1}, "no option is called nonsense; there are .*suppress_tokens"),
    ):
        with pytest.raises(OptionError, match=named):
            llm.generate([PROMPTS[0]], **options)
