"""BART and its kin against transformers: texts, however they are drawn and wherever keys lie."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

import kept

from ..generation import upto_eos
from .checkpoints import (
    CONFIGS,
    FAMILIES,
    NO_PADDING,
    PAD,
    START,
    VOCAB,
    Pair,
    draw,
    hf_generate,
    hf_greedy,
    padded_prompts,
    prompts,
)

CLOSE = {"rtol": 0.0, "atol": 1e-4}

every_family = pytest.mark.parametrize("pair", FAMILIES, indirect=True)


@pytest.mark.parametrize("pair_on", CONFIGS, indirect=True)
def test_greedy(pair_on: Pair) -> None:
    """64 tokens each, where transformers reads the prompts as a padded batch."""
    expected = hf_greedy(pair_on)
    options = {"max_new_tokens": 64, "no_repeat_ngram_size": 1, **NO_PADDING}
    ids, mask = padded_prompts()
    for given in (prompts(), {"input_ids": ids, "attention_mask": mask}):
        found = pair_on.llm.generate(given, **options)
        assert [c.token_ids for c in found] == expected
    assert len(set(expected)) == 3


@every_family
def test_greedy_over_and_over(pair: Pair) -> None:
    """Without what forbids it a random model repeats itself."""
    options = {"max_new_tokens": 24, **NO_PADDING}
    expected = [hf_generate(pair, prompt, **options)[0] for prompt in prompts()]
    assert [c.token_ids for c in pair.llm.generate(prompts(), **options)] == expected


# What the best known checkpoints of each family have in generation_config.json, with other lengths
# and tokens.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "bart": {
        **{"num_beams": 4, "length_penalty": 2.0, "max_length": 40, "min_length": 15},
        **{"no_repeat_ngram_size": 3, "early_stopping": True},
        **{"forced_bos_token_id": 0, "forced_eos_token_id": 40, "eos_token_id": 40},
    },
    "mbart": {
        **{"num_beams": 5, "early_stopping": True, "max_length": 50, "forced_eos_token_id": 40},
        **{"forced_bos_token_id": 77, "eos_token_id": 40},
    },
    "marian": {
        **{"num_beams": 6, "bad_words_ids": [[PAD]], "forced_eos_token_id": 40},
        **{"max_length": 40, "eos_token_id": 40, "renormalize_logits": True},
    },
    "pegasus": {
        **{"num_beams": 8, "length_penalty": 0.6, "max_length": 40, "forced_eos_token_id": 40},
        **{"eos_token_id": 40},
    },
    "m2m_100": {**NO_PADDING, "max_length": 64, "forced_bos_token_id": 88, "eos_token_id": 40},
}


@every_family
def test_the_checkpoint_s_own_settings(pair: Pair, tmp_path: Path) -> None:
    settings = _DEFAULTS[pair.name]
    shutil.copytree(pair.folder, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "generation_config.json"
    file.write_text(json.dumps({"pad_token_id": PAD, "decoder_start_token_id": START, **settings}))
    own, expected = GenerationConfig.from_pretrained(tmp_path), []
    for prompt in prompts():
        ids = torch.tensor([prompt])
        [row] = pair.hf.generate(ids, attention_mask=torch.ones_like(ids), generation_config=own)
        expected.append(upto_eos(row[1:].tolist(), [40]))
    found = kept.LLM(tmp_path).generate(prompts())
    assert [c.token_ids for c in found] == expected
    forced = settings.get("forced_bos_token_id")
    assert forced is None or {text[0] for text in expected} == {forced}
    if "bad_words_ids" in settings:
        assert all(PAD not in text for text in expected)


@every_family
@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3, "num_return_sequences": 3, "eos_token_id": [3, 40, 71]},
        {"num_beams": 3, "early_stopping": True, "eos_token_id": list(range(0, VOCAB, 2))},
        {"repetition_penalty": 1.4, "min_new_tokens": 5, "eos_token_id": list(range(0, VOCAB, 2))},
    ],
    ids=lambda options: " ".join(options),
)
def test_beams_and_processors(pair: Pair, options: dict[str, Any]) -> None:
    options = {"max_new_tokens": 24, **NO_PADDING, **options}
    expected = [text for prompt in prompts() for text in hf_generate(pair, prompt, **options)]
    found = pair.llm.generate(prompts(), **options)
    assert [c.token_ids for c in found] == expected


@pytest.mark.parametrize("pair", ["bart", "m2m_100"], indirect=True)
@pytest.mark.parametrize(
    "options",
    [
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"cache_implementation": "sliding", "sliding_window": 40},
        {"cache_implementation": "evicting", "kv_budget": 40, "eviction_score": "attention"},
        {"kv_dtype": ("float32", "float32"), "overflow": "slide"},
    ],
    ids=str,
)
def test_every_cache_and_few_slots(pair: Pair, options: dict[str, Any]) -> None:
    several = {"max_new_tokens": 12, "num_beams": 2, "num_return_sequences": 2}
    expected = [c.token_ids for c in pair.llm.generate(prompts(), **several)]
    pair.llm.max_batch_size = 2
    try:
        found = pair.llm.generate(prompts(), **several, **options)
    finally:
        pair.llm.max_batch_size = 16
    assert [c.token_ids for c in found] == expected


@every_family
def test_samples_come_with_transformers_log_probabilities(pair: Pair) -> None:
    options = {"temperature": 0.8, "max_new_tokens": 8, "logprobs": 3, **NO_PADDING}
    found = pair.llm.generate(prompts(), num_return_sequences=2, seed=7, **options)
    assert len({c.token_ids for c in found}) == 6
    for completion in found:
        prompt = prompts()[completion.prompt_index]
        [alone] = pair.llm.generate([prompt], seed=completion.seed, **options)
        assert alone.token_ids == completion.token_ids
        tokens = torch.tensor([[START, *completion.token_ids]])
        with torch.no_grad():
            read = torch.tensor([prompt])
            logits = pair.hf(input_ids=read, decoder_input_ids=tokens[:, :-1]).logits[0]
        wanted = logits.log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]
        assert completion.logprobs is not None
        chosen = torch.tensor([entry.chosen.logprob for entry in completion.logprobs])
        torch.testing.assert_close(chosen, wanted, **CLOSE)


@pytest.mark.parametrize("pair", ["mbart"], indirect=True)
@pytest.mark.parametrize("score", ["attention", "expected-attention", "key-norm", "window"])
def test_tokens_that_leave_do_so_in_any_batch(pair: Pair, score: str) -> None:
    """An evicting cache drops tokens of the text, none of an input."""
    evicting = {"cache_implementation": "evicting", "kv_budget": 16, "eviction_score": score}
    options = {"max_new_tokens": 150, "no_repeat_ngram_size": 2, "ignore_eos": True, **evicting}
    found = pair.llm.generate(prompts(), **options)
    plain = pair.llm.generate(prompts(), **{**options, **dict.fromkeys(evicting)})
    for prompt, completion, whole in zip(prompts(), found, plain, strict=True):
        [alone] = pair.llm.generate([prompt], **options)
        assert completion.token_ids == alone.token_ids
        assert len(completion.token_ids) == 150
        assert completion.token_ids != whole.token_ids


def test_a_window_slides_and_is_read_again(made: Callable[[str], Pair], tmp_path: Path) -> None:
    """Past the last place a text goes on from its last tokens, which get the first places."""
    pair = made("bart")
    shutil.copytree(pair.folder, tmp_path, dirs_exist_ok=True)
    [prompt] = draw(1, 9).tolist()
    options = {"max_new_tokens": 180, "no_repeat_ngram_size": 2, "ignore_eos": True}
    [found] = pair.llm.generate([prompt], **options, overflow="slide", slide_hop=30)
    assert len(found.token_ids) == 180
    text = [START, *found.token_ids]
    with torch.no_grad():
        window = torch.tensor([text[30:170]])
        logits = pair.hf(input_ids=torch.tensor([prompt]), decoder_input_ids=window).logits[0]
    [chosen] = pair.llm.generate([prompt], **options, logprobs=0, overflow="slide", slide_hop=30)
    assert chosen.logprobs is not None
    found_there = [entry.chosen.logprob for entry in chosen.logprobs[165:169]]
    wanted = logits.log_softmax(-1)[135:139].gather(1, torch.tensor(text[166:170])[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(found_there), wanted, **CLOSE)
