"""A text with a grammar is one of it, and the same by every way there is to it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from json_schemas import whole_schema
from jsonschema import Draft202012Validator

from kept import LLM, Completion, GenerationError, OptionError
from kept.sampling import kernels
from laws.planted import drafting_freely

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "n": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["x", "y"]}, "maxItems": 3},
    },
    "required": ["name", "n", "tags"],
    "additionalProperties": False,
}
CHOICES: dict[str, dict[str, Any]] = {
    "greedy": {"repetition_penalty": 1.0},
    "penalty": {"repetition_penalty": 1.3, "logprobs": 2},
    "top_k": {"temperature": 0.9, "seed": 3},
    "all": {"temperature": 1.0, "top_k": 0, "repetition_penalty": 1.0, "seed": 4},
    "nucleus": {"temperature": 0.8, "top_k": 0, "top_p": 0.9, "seed": 5},
    "min_p": {"temperature": 0.8, "top_k": 0, "min_p": 0.05, "seed": 6},
    "typical": {"temperature": 0.8, "typical_p": 0.8, "seed": 7},
    "below 1": {"temperature": 0.8, "repetition_penalty": 0.9, "seed": 8},
}
PROMPTS = ["x = ", 'print({"name": "x", "n": 1, "tags": []})\nprint(']


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM()


def drafted_freely(llm: LLM, prompt: str, options: dict[str, Any]) -> Completion:
    params, caching = llm.resolve(None, {**options, "prompt_lookup_num_tokens": 6})
    generation = llm.begin(prompt, params, caching)
    with drafting_freely(generation.engine, 1):
        return generation.run()[0]


@pytest.mark.parametrize("choice", CHOICES)
def test_a_text_is_the_same_alone_beside_others_drafted_and_by_the_reference(
    llm: LLM, choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"json_schema": SCHEMA, "max_new_tokens": 64, **CHOICES[choice]}
    alone = [llm.generate(prompt, **options)[0] for prompt in PROMPTS]
    for found in alone:
        if found.finish_reason == "length":  # as where it indents at length
            continue
        Draft202012Validator(SCHEMA).validate(json.loads(found.text))
    expected = [(found.token_ids, found.logprobs) for found in alone]
    beside = [*PROMPTS, *(f"# {i}\n" for i in range(3))]
    seeded = llm.generate(beside, **{"seed": 1, **options})
    assert [(x.token_ids, x.logprobs) for x in seeded[: len(PROMPTS)]] == expected
    drafted = [drafted_freely(llm, prompt, options) for prompt in PROMPTS]
    assert sum(x.drafted_tokens for x in drafted)
    assert [(x.token_ids, x.logprobs) for x in drafted] == expected
    for name in ("largest", "largest_allowed", "choose_from_few", "likeliest"):
        monkeypatch.setattr(kernels, name, None)
    read = [llm.generate(prompt, **options)[0] for prompt in PROMPTS]
    assert [(x.token_ids, x.logprobs) for x in read] == expected


@pytest.mark.parametrize("seed", range(4))
def test_json_of_random_schemas_is_valid(llm: LLM, seed: int) -> None:
    schema = whole_schema(seed)
    drawn = {"temperature": 1.0, "seed": seed} if seed % 2 else {}
    [found] = llm.generate("json.loads(", json_schema=schema, max_new_tokens=1500, **drawn)
    assert found.finish_reason == "stop"
    Draft202012Validator(schema).validate(json.loads(found.text))


def test_samples_follow_the_grammar_each_for_itself(llm: LLM) -> None:
    found = llm.generate(
        "x = ", regex="[a-c]{4}", temperature=1.5, num_return_sequences=6, seed=2, max_new_tokens=9
    )
    texts = [each.text for each in found]
    assert len(set(texts)) > 1
    assert all(len(text) == 4 and set(text) <= set("abc") for text in texts)


def test_a_grammar_ends_a_text_that_no_token_does(llm: LLM) -> None:
    [found] = llm.generate("x = ", grammar='start: "yes" | "no"', ignore_eos=True)
    assert (found.text in ("yes", "no"), found.finish_reason) == (True, "stop")


@pytest.mark.parametrize("choice", ["greedy", "penalty", "top_k", "all"])
@pytest.mark.parametrize("least", [0.0, 1.0], ids=["made ahead", "made when asked for"])
@pytest.mark.parametrize("drafts", [0, 6], ids=["plain", "drafted"])
def test_a_dead_end_is_its_own_texts_alone(
    llm: LLM, choice: str, least: float, drafts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kept.grammar.ahead.LEAST_SECONDS", least)
    requests = []
    for grammar in ('start: "ababab" T\nT: /ab/ & /cd/', "start: /[a-c]{8}/"):
        options = {"grammar": grammar, "prompt_lookup_num_tokens": drafts, **CHOICES[choice]}
        generation = llm.begin("x = ababababab\nx = ", *llm.resolve(None, options))
        requests += [generation.engine.submit(request) for request in generation.requests]
    with drafting_freely(generation.engine, 1):
        while generation.engine.has_work:
            generation.engine.step()
    dead, other = (request.group.results[0] for request in requests)
    assert dead.finish_reason == "error"
    assert "allows no text at all" in str(dead.error)
    assert (other.finish_reason, other.error) == ("stop", None)


def test_log_probabilities_are_those_of_the_model_without_the_grammar(llm: LLM) -> None:
    [free] = llm.generate("x = ", max_new_tokens=1, logprobs=3)
    [found] = llm.generate("x = ", regex="~+", max_new_tokens=1, logprobs=3)
    assert found.logprobs is not None
    assert free.logprobs is not None
    assert found.text[0] == "~"
    assert found.logprobs[0].top == free.logprobs[0].top


def test_what_contradicts_a_grammar_is_said(llm: LLM) -> None:
    with pytest.raises(OptionError, match="regex and grammar each say"):
        llm.generate("x", regex="a", grammar="start: /b/")
    with pytest.raises(OptionError, match="regex with num_beams=3"):
        llm.generate("x", regex="a", num_beams=3)
    with pytest.raises(GenerationError, match="min_new_tokens=9, grammar='ab'"):
        llm.generate("x", regex="ab", min_new_tokens=9)
    assert llm.generate("x", regex="ab")[0].text == "ab"
