"""T5 against transformers: texts, however they are drawn and wherever keys lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import kept
from kept import load_cache, make_cache
from kept.batch import pack_source
from kept.models import encoder_passes
from kept.models.record import Record

from ..seq2seq import START, T5S, VOCAB, Pair, draw, hf_generate, pad, prompts

CLOSE = {"rtol": 0.0, "atol": 1e-4}

every_config = pytest.mark.parametrize("pair", T5S, indirect=True)
both_versions = pytest.mark.parametrize("pair", ["v1.0", "v1.1"], indirect=True)


@every_config
def test_greedy(pair: Pair) -> None:
    different = {"no_repeat_ngram_size": 1}  # else a random T5 says one token over and over
    expected = [hf_generate(pair, prompt, **different)[0] for prompt in prompts()]
    found = pair.llm.generate(prompts(), max_new_tokens=24, **different)
    assert [c.token_ids for c in found] == expected
    assert [c.prompt_tokens for c in found] == [9, 1, 21]
    assert len(set(expected)) == 3
    plain = [c.token_ids for c in pair.llm.generate(prompts(), max_new_tokens=24)]
    assert plain == [hf_generate(pair, prompt)[0] for prompt in prompts()]


@both_versions
def test_a_padded_batch_of_transformers(pair: Pair) -> None:
    rows = [torch.tensor(prompt) for prompt in prompts()]
    ids, mask = pad(rows, [0] * 3, 21)
    options = {"max_new_tokens": 12, "no_repeat_ngram_size": 1}
    wanted = pair.hf.generate(
        ids, attention_mask=mask, pad_token_id=START, do_sample=False, **options
    )
    found = pair.llm.generate(prompts(), **options)
    assert [list(c.token_ids) for c in found] == wanted[:, 1:].tolist()


@both_versions
@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3, "num_return_sequences": 3, "eos_token_id": [3, 40, 71]},
        {"num_beams": 4, "length_penalty": 2.0, "eos_token_id": list(range(0, VOCAB, 2))},
        {"num_beams": 3, "early_stopping": True, "eos_token_id": list(range(0, VOCAB, 2))},
        {"repetition_penalty": 1.4, "no_repeat_ngram_size": 3, "eos_token_id": [3, 40]},
        {"min_new_tokens": 5, "eos_token_id": list(range(0, VOCAB, 2))},
    ],
    ids=lambda options: " ".join(options),
)
def test_beams_and_processors(pair: Pair, options: dict[str, Any]) -> None:
    expected = [text for prompt in prompts() for text in hf_generate(pair, prompt, **options)]
    found = pair.llm.generate(prompts(), max_new_tokens=24, **options)
    assert [c.token_ids for c in found] == expected


@both_versions
@pytest.mark.parametrize(
    "options",
    [
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"cache_implementation": "sliding", "sliding_window": 40},
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


@pytest.mark.parametrize("pair", ["v1.1"], indirect=True)
def test_samples_are_those_of_each_seed_alone(pair: Pair) -> None:
    options = {"max_new_tokens": 8, "temperature": 1.3, "top_k": 20}
    found = pair.llm.generate(prompts(), num_return_sequences=3, seed=7, **options)
    for completion in found:
        prompt = prompts()[completion.prompt_index]
        [alone] = pair.llm.generate([prompt], seed=completion.seed, **options)
        assert alone.token_ids == completion.token_ids
    assert len({c.token_ids for c in found}) > 3


@both_versions
def test_samples_come_with_transformers_log_probabilities(pair: Pair) -> None:
    found = pair.llm.generate(
        prompts(), num_return_sequences=2, seed=7, temperature=0.8, max_new_tokens=8, logprobs=3
    )
    assert len({c.token_ids for c in found}) == 6
    for completion in found:
        source = torch.tensor([prompts()[completion.prompt_index]])
        tokens = torch.tensor([[START, *completion.token_ids]])
        with torch.no_grad():
            logits = pair.hf(input_ids=source, decoder_input_ids=tokens[:, :-1]).logits[0]
        wanted = logits.log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]
        assert completion.logprobs is not None
        chosen = torch.tensor([entry.chosen.logprob for entry in completion.logprobs])
        torch.testing.assert_close(chosen, wanted, **CLOSE)


@both_versions
@pytest.mark.parametrize(
    "options",
    [{"kv_dtype": "k8v4"}, {"kv_dtype": "int8"}, {"kv_dtype": "bfloat16"}],
    ids=str,
)
def test_keys_and_values_in_files(pair: Pair, options: dict[str, Any]) -> None:
    """Where a cache lies changes no token, whatever its codecs; its inputs lie there too."""
    several = {"max_new_tokens": 12, "num_beams": 2, **options}
    expected = pair.llm.generate(prompts(), **several)
    filed = kept.LLM(pair.folder, offload_folder=Path(__file__).parent, offload_memory=1 << 22)
    found = filed.generate(prompts(), **several)
    assert [c.token_ids for c in found] == [c.token_ids for c in expected]
    assert all(c.cache_bytes > 0 for c in found)  # in runs there, which have other room to grow


@pytest.mark.parametrize("pair", ["v1.0"], indirect=True)
def test_an_input_is_encoded_once(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, ...]] = []
    encode = type(pair.model).encode_input

    def counting(model: Any, tokens: list[int], cache: Any) -> Any:
        read.append((len(tokens),))
        return encode(model, tokens, cache)

    monkeypatch.setattr(type(pair.model), "encode_input", counting)
    pair.llm.forget()
    pair.llm.generate([*prompts(), prompts()[0]], max_new_tokens=9, num_beams=3)
    assert read == [(9,), (1,), (21,)], "each by itself"
    pair.llm.generate(prompts()[:1], max_new_tokens=9, temperature=1.0, num_return_sequences=5)
    assert len(read) == 3


@pytest.mark.parametrize("pair", ["v1.1"], indirect=True)
@torch.no_grad()
def test_many_inputs_are_read_in_several_passes(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = pack_source([draw(n, seed=n).tolist() for n in (4, 9, 2, 30, 5)], 5)
    whole = pair.model.encode(source, Record())
    monkeypatch.setattr(encoder_passes, "ENCODER_ROWS", 12)
    torch.testing.assert_close(pair.model.encode(source, Record()), whole, **CLOSE)


@both_versions
@pytest.mark.parametrize("codec", ["bfloat16", "int8", "int4"])
@torch.no_grad()
def test_a_saved_cache_goes_on(pair: Pair, codec: str, tmp_path: Path) -> None:
    held = make_cache(pair.model.kv_shapes, num_slots=2, kv_dtype=codec)
    pair.model(draw(2, 8), decoder_input_ids=draw(2, 3), cache=held)
    held.repeat(2)
    held.save(tmp_path / "cache")
    loaded = load_cache(tmp_path / "cache", pair.model.kv_shapes)
    assert loaded.cross.num_bytes == held.cross.num_bytes
    step = draw(4, 1)
    found, expected = (pair.model(decoder_input_ids=step, cache=c).logits for c in (loaded, held))
    assert torch.equal(found, expected)


def test_an_idle_cache_of_slots_makes_room_for_an_input(made: Callable[[str], Pair]) -> None:
    """Six texts leave a cache that takes most of the room, which one long input then needs."""
    folder, options = made("v1.1").folder, {"cache_implementation": "static", "max_new_tokens": 8}
    [prompt] = draw(1, 90).tolist()
    expected = made("v1.1").llm.generate([prompt], **options)[0].token_ids
    llm = kept.LLM(folder, kv_memory=230_000)
    llm.generate([[5]], num_return_sequences=6, do_sample=True, **options)
    assert llm.generate([prompt], **options)[0].token_ids == expected
