"""Each family against transformers: logits over a cache, padded batches, greedy and beams."""

from __future__ import annotations

import pytest
import torch
from thinning import cells
from torch import Tensor

from kept import Cache, make_cache

from .conftest import BACKENDS
from .families import FAMILIES, FIRST
from .generation import hf_generate, likeliest, prompts
from .zoo import DYNAMIC_CONTEXT, VOCAB, Pair

LENGTH = 26
CLOSE = {"rtol": 0.0, "atol": 1e-4}
# Every family on both backends, and every second of the variants on either.
VARIANTS = [name for name in FAMILIES if name not in FIRST]
CASES = [(name, backend) for name in FIRST for backend in BACKENDS]
CASES += cells(VARIANTS, BACKENDS, out_of=2)


def a_cache(pair: Pair, batch: int) -> Cache | None:
    """One kind for each checkpoint, or none."""
    at, shapes = list(FAMILIES).index(pair.name), pair.model.kv_shapes
    kinds: tuple[tuple[str, dict[str, int]], ...] = (
        ("dynamic", {}),
        ("static", {"max_cache_len": LENGTH}),
        ("sliding", {"sliding_window": LENGTH}),
    )
    kind, fields = kinds[at % len(kinds)]
    return make_cache(shapes, kind, num_slots=batch, **fields)


@pytest.mark.parametrize(("pair", "backend"), CASES, indirect=True)
@torch.no_grad()
def test_logits_at_once_in_pieces_and_padded(pair: Pair) -> None:
    ids = torch.randint(0, VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(5))
    expected = pair.hf(ids, use_cache=False).logits
    assert expected.std() > 0.5
    torch.testing.assert_close(pair.model(ids, use_cache=False).logits, expected, **CLOSE)
    cache = a_cache(pair, 2)
    # Keys of a text that grows beyond the trained context of LongRoPE stay those of a short one.
    pieces = ids.split([DYNAMIC_CONTEXT + 1, 1, 8] if "long" in pair.name else [1, 9, 1, 15], dim=1)
    found = [pair.model(piece, cache=cache).logits for piece in pieces]
    torch.testing.assert_close(torch.cat(found, dim=1), expected, **CLOSE)
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    alone = pair.hf(ids[1:, 4:], use_cache=False).logits[0]
    padded: Tensor = pair.model(ids, mask, use_cache=False).logits
    torch.testing.assert_close(padded[1, 4:], alone, **CLOSE)
    torch.testing.assert_close(padded[0], expected[0], **CLOSE)


@pytest.mark.parametrize(("pair", "backend"), CASES, indirect=True)
def test_greedy_and_beams(pair: Pair) -> None:
    several = prompts(DYNAMIC_CONTEXT + 4, DYNAMIC_CONTEXT + 1)
    found = pair.llm.generate(several, max_new_tokens=20)
    for prompt, completion in zip(several, found, strict=True):
        assert completion.token_ids == likeliest(pair, prompt, completion.token_ids)
    if pair.name not in FIRST:
        return
    options = {"num_beams": 2, "max_new_tokens": 8, "num_return_sequences": 2}
    expected = hf_generate(pair, several[0], **options)
    beams = pair.llm.generate(several[:1], **options)
    assert [completion.token_ids for completion in beams] == expected
