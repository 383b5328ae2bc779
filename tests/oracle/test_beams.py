"""Beam search: the same token ids and scores as transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from thinning import cells

from .conftest import BACKENDS
from .generation import hf_generate, prompts
from .zoo import FEW, VOCAB, Pair

EOS = [3, 40, 71]
EVEN = list(range(0, VOCAB, 2))  # so many that beams end early, where the stopping rules differ
OPTIONS: list[dict[str, Any]] = [
    {"num_beams": 2, "num_return_sequences": 2},
    {"num_beams": 4, "eos_token_id": EOS, "num_return_sequences": 4},
    {"num_beams": 3, "eos_token_id": EOS, "early_stopping": True, "num_return_sequences": 3},
    {"num_beams": 3, "eos_token_id": EOS, "length_penalty": 0.0, "num_return_sequences": 3},
    {"num_beams": 3, "eos_token_id": EOS, "length_penalty": -1.5, "num_return_sequences": 3},
    {"num_beams": 4, "eos_token_id": EOS, "length_penalty": 2.0, "num_return_sequences": 4},
    {"num_beams": 3, "eos_token_id": EVEN, "length_penalty": 2.0, "num_return_sequences": 3},
    {
        "num_beams": 3,
        "eos_token_id": EVEN,
        "length_penalty": 2.0,
        "early_stopping": "never",
        "num_return_sequences": 3,
    },
    {
        "num_beams": 3,
        "eos_token_id": EVEN,
        "length_penalty": -1.0,
        "early_stopping": "never",
        "num_return_sequences": 3,
    },
    {"num_beams": 3, "eos_token_id": 40, "repetition_penalty": 1.3, "num_return_sequences": 2},
    {"num_beams": 3, "eos_token_id": EOS, "no_repeat_ngram_size": 2, "num_return_sequences": 2},
    {"num_beams": 3, "eos_token_id": EOS, "min_new_tokens": 20, "num_return_sequences": 3},
    {
        "num_beams": 6,
        "eos_token_id": EVEN,
        "early_stopping": True,
        "num_return_sequences": 6,
    },
]


def short(options: dict[str, Any] | str) -> str:
    if isinstance(options, str):
        return options
    return " ".join(f"{name}={str(value)[:12]}" for name, value in options.items())


@pytest.mark.parametrize(
    ("options", "backend"), cells(OPTIONS, BACKENDS, out_of=2), ids=short, indirect=["backend"]
)
@pytest.mark.parametrize("pair", ["llama"], indirect=True)
def test_beam_ids(pair: Pair, options: dict[str, Any]) -> None:
    [prompt] = prompts(12)
    expected = hf_generate(pair, prompt, **options)
    found = pair.llm.generate([prompt], max_new_tokens=64, **options)
    assert [c.token_ids for c in found] == expected
    assert [c.index for c in found] == list(range(len(expected)))
    scores = [c.score for c in found]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("pair", [n for n in FEW if n != "llama"], indirect=True)
def test_beams_against_every_family(pair: Pair) -> None:
    [prompt] = prompts(12)
    options = {"num_beams": 2, "eos_token_id": EOS, "num_return_sequences": 2}
    expected = hf_generate(pair, prompt, **options)
    found = pair.llm.generate([prompt], max_new_tokens=64, **options)
    assert [c.token_ids for c in found] == expected


@pytest.mark.parametrize("pair", ["gpt2", "mistral"], indirect=True)
def test_beams_of_a_batch_with_few_slots(pair: Pair) -> None:
    several = prompts(5, 21)
    options = {"num_beams": 3, "eos_token_id": EOS, "max_new_tokens": 12}
    expected = [hf_generate(pair, prompt, **options)[0] for prompt in several]
    pair.llm.max_batch_size = 4
    try:
        found = pair.llm.generate(several, **options)
        wide = pair.llm.generate(several, **{**options, "cache_implementation": "static"})
        plain = pair.llm.generate(several, **{**options, "use_cache": False})
    finally:
        pair.llm.max_batch_size = 16
    for completions in (found, wide, plain):
        assert [c.token_ids for c in completions] == expected


@pytest.mark.parametrize("pair", ["llama"], indirect=True)
def test_beam_scores_and_finish_reasons(pair: Pair) -> None:
    [prompt] = prompts(12)
    options = {"num_beams": 3, "num_return_sequences": 3, "length_penalty": 0.7}
    ids = torch.tensor([prompt])
    expected = pair.hf.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        pad_token_id=VOCAB - 1,
        do_sample=False,
        max_new_tokens=20,
        eos_token_id=EOS,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    found = pair.llm.generate([prompt], max_new_tokens=20, eos_token_id=EOS, logprobs=0, **options)
    scores = torch.tensor([c.score for c in found])
    torch.testing.assert_close(scores, expected.sequences_scores, rtol=0, atol=1e-4)
    for completion in found:
        ended = completion.token_ids[-1] in EOS
        assert completion.finish_reason == ("stop" if ended else "length")
        assert completion.logprobs is not None
        total = sum(entry.chosen.logprob for entry in completion.logprobs)
        assert total / len(completion.token_ids) ** 0.7 == pytest.approx(completion.score)
