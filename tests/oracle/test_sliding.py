"""A sliding cache on a model without windows attends exactly its window and its sinks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kept import make_cache

from .generation import prompts
from .zoo import VOCAB, Pair

CASES = [(1, 0), (5, 0), (5, 2), (4, 7), (8, 1)]


def windowed_logits(pair: Pair, ids: Tensor, window: int, sinks: int) -> Tensor:
    """transformers' logits (B, T, V) under an explicit mask."""
    token = torch.arange(ids.shape[1])
    query = token[:, None]
    seen = (token <= query) & ((token > query - window) | (token < sinks))
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    return pair.hf(ids, attention_mask=mask.expand(len(ids), 1, -1, -1), use_cache=False).logits


@pytest.mark.parametrize(("window", "sinks"), CASES)
@pytest.mark.parametrize("pair", ["llama", "gpt2"], indirect=True)
@torch.no_grad()
def test_logits(pair: Pair, window: int, sinks: int) -> None:
    ids = torch.randint(0, VOCAB, (2, 30), generator=torch.Generator().manual_seed(3))
    expected = windowed_logits(pair, ids, window, sinks)
    for sizes in ([30], [7, 1, 1, 12, 1, 8], [1] * 30):
        cache = make_cache(
            pair.model.kv_shapes,
            "sliding",
            num_slots=2,
            sliding_window=window,
            num_sinks=sinks,
        )
        parts = [pair.model(part, cache=cache).logits for part in ids.split(sizes, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("window", "sinks"), CASES)
@pytest.mark.parametrize("pair", ["llama"], indirect=True)
@torch.no_grad()
def test_greedy_ids(pair: Pair, window: int, sinks: int) -> None:
    several = prompts(12, 3, 7)
    found = pair.llm.generate(
        several,
        max_new_tokens=32,
        cache_implementation="sliding",
        sliding_window=window,
        num_sinks=sinks,
    )
    for prompt, completion in zip(several, found, strict=True):
        ids = torch.tensor([[*prompt, *completion.token_ids]])
        likeliest = windowed_logits(pair, ids, window, sinks)[0].argmax(-1)
        assert completion.token_ids == tuple(likeliest[len(prompt) - 1 : -1].tolist())
