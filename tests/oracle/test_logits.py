"""Logits of the prompt and of every cached step, for every config and every kind of cache."""

from __future__ import annotations

import pytest
import torch
from thinning import in_part
from torch import Tensor
from transformers import DynamicCache

from kept import Cache, make_cache

from .zoo import REST, VOCAB, Pair

NUM_PROMPT, NUM_STEPS = 19, 7
CLOSE = {"rtol": 0.0, "atol": 1e-4}


def tokens(batch: int, time: int) -> Tensor:
    return torch.randint(0, VOCAB, (batch, time), generator=torch.Generator().manual_seed(time))


def expected_logits(pair: Pair, ids: Tensor) -> Tensor:
    """transformers' logits (B, T, V): the prompt in one pass, then a token at a time."""
    # transformers' own sliding layers are left out of it: without a config its cache keeps all.
    past = DynamicCache()
    first = pair.hf(ids[:, :NUM_PROMPT], past_key_values=past).logits
    steps = [pair.hf(ids[:, i : i + 1], past_key_values=past).logits for i in steps_of(ids)]
    return torch.cat([first, *steps], dim=1)


def steps_of(ids: Tensor) -> range:
    return range(NUM_PROMPT, ids.shape[1])


def caches(pair: Pair, batch: int, turn: int) -> dict[str, Cache]:
    """Every other kind of cache for a checkpoint, those of turn 0 or of turn 1, or all of them."""
    shapes = pair.model.kv_shapes
    found = {
        "dynamic": make_cache(shapes, num_slots=batch),
        "static": make_cache(
            shapes, "static", num_slots=batch, max_cache_len=NUM_PROMPT + NUM_STEPS
        ),
        "sliding": make_cache(
            shapes, "sliding", num_slots=batch, sliding_window=NUM_PROMPT + NUM_STEPS
        ),
    }
    if any(shape.window for shape in shapes):
        found["own window"] = make_cache(shapes, "sliding", num_slots=batch)
    places = REST.index(pair.name), turn
    return {k: v for i, (k, v) in enumerate(found.items()) if in_part(*places, i, out_of=2)}


@pytest.mark.parametrize("pair", REST, indirect=True)
@torch.no_grad()
def test_logits_of_prompt_and_steps(pair: Pair) -> None:
    ids = tokens(2, NUM_PROMPT + NUM_STEPS)
    expected = expected_logits(pair, ids)
    assert expected.std() > 0.5
    for kind, cache in caches(pair, 2, turn=0).items():
        found = [pair.model(ids[:, :NUM_PROMPT], cache=cache).logits]
        found += [pair.model(ids[:, i : i + 1], cache=cache).logits for i in steps_of(ids)]
        torch.testing.assert_close(
            torch.cat(found, dim=1), expected, **CLOSE, msg=lambda m, k=kind: f"{k}: {m}"
        )


@pytest.mark.parametrize("pair", REST, indirect=True)
@torch.no_grad()
def test_logits_without_a_cache(pair: Pair) -> None:
    ids = tokens(2, NUM_PROMPT + NUM_STEPS)
    expected = pair.hf(ids, use_cache=False).logits
    output = pair.model(ids, use_cache=False)
    torch.testing.assert_close(output.logits, expected, **CLOSE)
    assert output.cache is None


@pytest.mark.parametrize("pair", [n for n in REST if n != "llama dynamic"], indirect=True)
@torch.no_grad()
def test_several_new_tokens_on_a_filled_cache(pair: Pair) -> None:
    ids = tokens(2, NUM_PROMPT + NUM_STEPS)
    expected = pair.hf(ids, use_cache=False).logits
    for kind, cache in caches(pair, 2, turn=1).items():
        parts = ids.split([1, 9, 4, 1, 11], dim=1)
        found = torch.cat([pair.model(part, cache=cache).logits for part in parts], dim=1)
        torch.testing.assert_close(found, expected, **CLOSE, msg=lambda m, k=kind: f"{k}: {m}")
