"""With drafts a text is what it is without them, whichever cache holds it.

tests/laws/test_serving_laws.py holds the same for requests that come and go in one pool, windows
and samples among them. Here are the caches that lie otherwise, an encoder's input beside them, and
what a text's tokens spell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from random import Random
from tempfile import gettempdir
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thinning import examples

from kept import LLM, machine
from kept.cache import Offloaded, make_cache
from kept.engine import Completion, ContextRule, DraftModel, Engine, Request, make_group
from kept.models import CausalLM
from kept.ops import use_threads
from kept.sampling import SamplingParams
from laws.planted import drafting_freely
from laws.serving_draws import CHOICES, CODECS, PENALTIES
from laws.test_encoder_laws import t5
from laws.tiny import CONFIGS, VOCAB, native_model

pytestmark = pytest.mark.skipif(
    not machine.NATIVE_AVAILABLE, reason="installed without a C++ compiler"
)
KINDS: dict[str, dict[str, Any]] = {
    "dynamic": {},
    "dynamic in one piece": {"in_blocks": False},
    "dynamic in files": {"place": Offloaded(gettempdir(), 1 << 15)},
    "static": {"max_cache_len": 180},
    "static in files": {"max_cache_len": 180, "place": Offloaded(gettempdir(), 1 << 15)},
    "sliding": {"sliding_window": 50},
    "sliding with sinks": {"sliding_window": 40, "num_sinks": 3},
    "evicting by keys": {"budget": 40, "grain": 16, "policy": "key-norm"},
    "evicting by attention": {"budget": 24, "grain": 8, "policy": "attention"},
}
# A text is likely to come to what it was before.
LIKELY = {"temperature": 0.3, "do_sample": True, "top_k": 0}


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    yield
    use_threads()


def engine_of(
    model: CausalLM, kind: str, codec: Any, slots: int, draft: CausalLM | None = None
) -> Engine:
    fields: dict[str, Any] = {"dtype": model.dtype, "kv_dtype": codec, "num_slots": slots}
    cache = make_cache(model.kv_shapes, kind.split()[0], **KINDS[kind], **fields)
    by = None if draft is None else DraftModel(draft)
    return Engine(model, cache, ContextRule(180), prefill_chunk=40, draft=by)


def texts(
    engine: Engine, prompts: list[list[int]], most: int, seed: int, **options: Any
) -> list[Completion]:
    """What comes of some prompts, all at once; most: drafts."""
    source = engine.model.is_encoder_decoder
    groups = []
    for prompt in prompts:
        params = SamplingParams(prompt_lookup_num_tokens=most, seed=seed, **options)
        groups.append(
            make_group(
                [0] if source else prompt,
                params.resolve(vocab_size=VOCAB),
                engine.rule,
                source=tuple(prompt) if source else None,
            )
        )
        engine.submit(Request(groups[-1]))
    with drafting_freely(engine, seed):
        for _ in range(2000):
            if engine.has_work:
                engine.step()
    return [c.completion() for group in groups for c in group.results]


def same(found: list[Completion], expected: list[Completion]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one.token_ids, one.logprobs, one.text, one.finish_reason, one.error) == (
            (other.token_ids, other.logprobs, other.text, other.finish_reason, other.error)
        )
        assert (other.drafted_tokens, other.num_steps) == (0, len(other.token_ids))
        assert one.accepted_tokens <= one.drafted_tokens


def prompts_of(seed: int, count: int) -> list[list[int]]:
    draws = Random(seed)
    found = []
    for _ in range(count):
        part = [draws.randrange(VOCAB - 1) for _ in range(draws.choice([1, 3, 9, 30]))]
        found.append((part * 3)[: draws.choice([1, 20, 63, 64, 65])])
    return found


@settings(max_examples=examples(15, 120))
@given(
    kind=st.sampled_from(sorted(KINDS)),
    name=st.sampled_from(sorted(CONFIGS)),
    codec=st.sampled_from(CODECS),
    seed=st.integers(0, 999),
    count=st.integers(1, 3),
    who=st.sampled_from(["suffix", "model", "both"]),
    choice=st.sampled_from([{}, LIKELY, *({n: v} for n, v in {**CHOICES, **PENALTIES}.items())]),
    data=st.data(),
)
def test_no_cache_lets_a_draft_change_a_bit(
    kind: str,
    name: str,
    codec: Any,
    seed: int,
    count: int,
    who: str,
    choice: dict[str, Any],
    data: Any,
) -> None:
    if kind.startswith(("evicting", "sliding")) and name not in ("gpt2", "llama"):
        name = "llama"  # these choose among tokens that no window of the model hides
    options = {
        key: data.draw(value) if isinstance(value, st.SearchStrategy) else value
        for key, value in choice.items()
    }
    if options.keys() & CHOICES.keys():
        options = {"do_sample": True, "top_k": 0, **options}
    model, prompts = native_model(name, "bf16"), prompts_of(seed, count)
    options["max_new_tokens"] = 100
    use_threads(1)
    expected = texts(engine_of(model, kind, codec, 3), prompts, 0, seed, **options)
    draft = None if who == "suffix" else native_model(name, "int8")
    engine, most = engine_of(model, kind, codec, 3, draft), 0 if who == "model" else 48
    same(texts(engine, prompts, most, seed, **options), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_drafts_are_accepted_and_rejected_in_every_cache(kind: str) -> None:
    """So that the law above has something to say."""
    accepted, drafted = Counter[str](), Counter[str]()
    draft = native_model("llama", "int8")
    for seed in range(3):
        engine = engine_of(native_model("llama", "bf16"), kind, None, 3, draft)
        texts(engine, prompts_of(seed, 3), 48, seed, max_new_tokens=100, **LIKELY)
        accepted += engine.snapshot().counters.drafts.accepted
        drafted += engine.snapshot().counters.drafts.drafted
    for who in ("suffix", "model"):
        assert 0 < accepted[who] < drafted[who], who


@pytest.mark.parametrize("kind", ["dynamic", "static", "sliding"])
def test_nor_where_an_encoder_has_read_the_prompt(kind: str) -> None:
    model = t5("bf16", True)
    for seed in range(3):
        prompts = [*prompts_of(seed, 2), prompts_of(seed, 1)[0]]
        options: dict[str, Any] = {"max_new_tokens": 60, **LIKELY}
        engine = engine_of(model, kind, None, 3)
        found = texts(engine, prompts, 48, seed, **options)
        same(found, texts(engine_of(model, kind, None, 3), prompts, 0, seed, **options))
        assert engine.snapshot().counters.drafted_steps


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stop_strings": ["def ", "):"]},
        {"stop_strings": ["\n\n"], "temperature": 0.4, "seed": 1},
        {"repetition_penalty": 1.1, "logprobs": 2},
        {"no_repeat_ngram_size": 6},
        {"temperature": 0.5, "top_k": 8, "seed": 3, "num_return_sequences": 3},
        {"exponential_decay_length_penalty": (5, 1.2), "temperature": 0.3, "seed": 2},
    ],
)
def test_nor_what_a_text_spells_or_where_it_ends(options: dict[str, Any]) -> None:
    """The bundled model, whose texts repeat what they are asked about."""
    llm, code = LLM(), "def first(a, b):\n    return a + b\n\n\ndef second(a, b):\n    return "
    prompts = [code, code + "a + b\n\n\ndef third(a, b):\n    ret", "for i in range(10):\n    p"]
    several = "num_return_sequences" in options
    given: dict[str, Any] = {"max_new_tokens": 48, "seed": 0, **options}
    expected = llm.generate(prompts[:1] if several else prompts, **given)
    [engine] = llm._engines._recent.values()
    with drafting_freely(engine, 5):
        found = llm.generate(
            prompts[:1] if several else prompts, prompt_lookup_num_tokens=48, **given
        )
    same(found, expected)
    assert sum(one.accepted_tokens for one in found) or "stop_strings" in options
