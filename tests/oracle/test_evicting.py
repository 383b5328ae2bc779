"""Generation with a cache of a fixed budget."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from thinning import cells

from kept import LLM, make_cache
from kept.cache import SCORES, EvictionPolicy
from kept.errors import OptionError
from kept.ops import KVDtype
from kept.options import EvictionScore

from .conftest import BACKENDS
from .generation import prompts
from .zoo import Pair

EVICTING: dict[str, Any] = {"cache_implementation": "evicting", "max_new_tokens": 24}
FAMILIES = ("gpt2", "llama", "qwen3")
pairs = pytest.mark.parametrize("pair", FAMILIES, indirect=True)
# Of family, score and operations any two meet.
some_pairs = pytest.mark.parametrize(
    ("pair", "score", "backend"),
    cells(FAMILIES, [*SCORES], BACKENDS, out_of=2),
    indirect=["pair", "backend"],
)
mixed = pytest.mark.parametrize("pair", ["qwen2 window"], indirect=True)


@pytest.fixture
def reference(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> LLM:
    """The pair's checkpoint on the reference operations."""
    monkeypatch.setenv("KEPT_OPS", "reference")
    return LLM(pair.folder)


def ids(llm: LLM, several: list[list[int]], **options: Any) -> list[tuple[int, ...]]:
    return [c.token_ids for c in llm.generate(several, **EVICTING, **options)]


@some_pairs
def test_a_budget_that_is_never_reached_changes_nothing(pair: Pair, score: str) -> None:
    several = prompts(70, 3, 31)
    plain = [c.token_ids for c in pair.llm.generate(several, max_new_tokens=24)]
    assert ids(pair.llm, several, kv_budget=128, eviction_score=score) == plain


@pairs
@pytest.mark.parametrize("sinks", [0, 3])
def test_the_window_score_is_a_sliding_cache(pair: Pair, sinks: int) -> None:
    [prompt] = prompts(40)
    policy = EvictionPolicy("window", sinks, 0)
    evicting = make_cache(pair.model.kv_shapes, "evicting", budget=9, grain=1, policy=policy)
    # A token attends those that were kept and itself.
    window = 9 + 1 - sinks
    sliding = make_cache(pair.model.kv_shapes, "sliding", sliding_window=window, num_sinks=sinks)
    for token in prompt:
        found, wanted = (
            pair.model(torch.tensor([[token]]), cache=cache).logits for cache in (evicting, sliding)
        )
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"eviction_score": "window", "num_sinks": 0, "num_recent": 5},
    {"kv_dtype": "int8"},
    {"eviction_score": "attention"},
    {"eviction_score": "expected-attention", "kv_dtype": "int4"},
    {"num_beams": 3},
    {"num_beams": 3, "eviction_score": "attention"},
    {"temperature": 1.1, "seed": 4, "num_return_sequences": 2},
)


@pytest.mark.parametrize(
    ("pair", "options", "backend"),
    cells(FAMILIES, OPTIONS, BACKENDS, out_of=2),
    indirect=["pair", "backend"],
    ids=str,
)
def test_generation_in_a_batch_and_alone(pair: Pair, options: dict[str, Any]) -> None:
    several = prompts(100, 50, 70)
    together = ids(pair.llm, several, kv_budget=20, **options)
    alone = [
        found for prompt in several for found in ids(pair.llm, [prompt], kv_budget=20, **options)
    ]
    assert together == alone
    assert all(len(found) == 24 for found in together)
    plain = [c.token_ids for c in pair.llm.generate([several[0]], max_new_tokens=24)]
    assert together[0] != plain[0]


@pairs
@pytest.mark.parametrize("score", SCORES)
def test_the_kernels_say_what_the_reference_says(pair: Pair, reference: LLM, score: str) -> None:
    several = prompts(100, 50, 70)
    options = {"kv_budget": 20, "eviction_score": score}
    assert ids(reference, several, **options) == ids(pair.llm, several, **options)


@pytest.mark.parametrize("backend", ["native"], indirect=True)
@pytest.mark.parametrize(
    ("pair", "kv_dtype", "score"),
    cells(FAMILIES, ["float32", "int8", "int4"], [*SCORES], out_of=3),
    indirect=["pair"],
)
def test_the_kernels_give_the_same_bits_in_any_chunks(
    pair: Pair, kv_dtype: KVDtype, score: str
) -> None:
    assert pair.model.native is not None
    [prompt] = prompts(90)

    def logits(longest: int) -> torch.Tensor:
        budgets = [11 + 3 * layer for layer in range(pair.model.config.num_layers)]
        cache = make_cache(
            pair.model.kv_shapes, "evicting", budget=budgets, grain=8, kv_dtype=kv_dtype,
            policy=score,
        )  # fmt: skip
        found = []
        while cache.lengths[0] < len(prompt):
            begin, most = cache.lengths[0], cache.max_step(0)
            assert most is not None
            part = torch.tensor([prompt[begin : begin + min(most, longest)]])
            found.append(pair.model(part, cache=cache).logits[0])
        return torch.cat(found)

    alone = logits(1)
    for longest in (2, 3, 5, 16):
        assert torch.equal(logits(longest), alone)


@mixed
@pytest.mark.parametrize("score", SCORES)
def test_layers_of_two_kinds_run_on_both(pair: Pair, reference: LLM, score: str) -> None:
    several = prompts(100, 50, 70)
    options = {"kv_budget": 20, "eviction_score": score}
    together = ids(pair.llm, several, **options)
    assert together == ids(reference, several, **options)
    assert together == [found for p in several for found in ids(pair.llm, [p], **options)]


@some_pairs
def test_layers_of_different_budgets_run_on_both(pair: Pair, reference: LLM, score: str) -> None:
    several = prompts(100, 50, 70)
    budgets = [30 - 8 * layer for layer in range(pair.model.config.num_layers)]
    options = {"kv_budget": budgets, "eviction_score": score}
    together = ids(pair.llm, several, **options)
    assert together == ids(reference, several, **options)
    assert together == [found for p in several for found in ids(pair.llm, [p], **options)]
    assert together != ids(pair.llm, several, kv_budget=max(budgets), eviction_score=score)


@pytest.mark.parametrize("pair", ["llama"], indirect=True)
def test_attention_weights_have_no_columns_for_what_is_gone(pair: Pair) -> None:
    cache = make_cache(pair.model.kv_shapes, "evicting", budget=9)
    with pytest.raises(OptionError, match="leave output_attentions out"):
        pair.model(torch.tensor([[1, 2]]), cache=cache, output_attentions=True)
    assert cache.lengths == (0,)


def test_the_options_offer_the_caches_scores() -> None:
    assert set(get_args(EvictionScore)) == set(SCORES)


@pytest.mark.parametrize("pair", ["llama"], indirect=True)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (EVICTING, "needs kv_budget"),
        ({**EVICTING, "kv_budget": 3}, "a budget of 3 tokens does not hold the 4 first"),
        ({**EVICTING, "kv_budget": 9, "num_sinks": 5, "num_recent": 5}, "the 5 first and 5 last"),
        ({**EVICTING, "kv_budget": 9, "sliding_window": 5}, "acts only on the sliding cache"),
        ({**EVICTING, "kv_budget": [9]}, "lists 1 numbers of tokens, and 2 layers"),
        ({**EVICTING, "kv_budget": []}, "is an empty list"),
        ({**EVICTING, "kv_budget": [9, 0]}, "kv_budget=0 is out of range"),
        ({"kv_budget": 9}, "acts only on the evicting cache"),
        ({"eviction_score": "window"}, "acts only on the evicting cache"),
        ({"num_recent": 1}, "acts only on the evicting cache"),
        ({"num_sinks": 1}, "acts only on the sliding or evicting cache"),
        ({"use_cache": False, "kv_budget": 9}, "describes a cache"),
        ({**EVICTING, "kv_budget": 9, "eviction_score": "luck"}, "eviction_score"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(
    pair: Pair, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        pair.llm.generate([[1, 2, 3]], **options)
