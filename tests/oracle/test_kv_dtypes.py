"""Generation from keys and values that are stored smaller than the model computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from thinning import in_part

from kept import load_cache, make_cache
from kept.errors import OptionError
from kept.ops import KV_CODECS, KVDtype

from .conftest import BACKENDS
from .generation import prompts
from .zoo import Pair

SMALL = ("float16", "bfloat16", "int8", "k8v4", "int4", ("int4", "bfloat16"))
# How far logits may be from uncached ones, in parts of their spread.
BOUNDS = {"float16": 0.003, "bfloat16": 0.02, "int8": 0.05, "k8v4": 0.2, "int4": 0.5}

FAMILIES = ("gemma2", "gpt2", "qwen2 window")
pairs = pytest.mark.parametrize("pair", FAMILIES, indirect=True)


@pairs
@pytest.mark.parametrize("kv_dtype", SMALL)
def test_logits_are_near_those_without_a_cache(pair: Pair, kv_dtype: KVDtype) -> None:
    ids = torch.tensor(prompts(17))
    exact = pair.model(ids, use_cache=False).logits
    cache = make_cache(pair.model.kv_shapes, kv_dtype=kv_dtype)
    parts = [pair.model(ids[:, a:b], cache=cache).logits for a, b in ((0, 9), (9, 10), (10, 17))]
    error = (torch.cat(parts, 1) - exact).pow(2).mean().sqrt()
    assert 0 < error < BOUNDS.get(kv_dtype, 0.5) * exact.std()


OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"cache_implementation": "static"},
    {"cache_implementation": "sliding", "sliding_window": 12},
    {"num_beams": 3},
    {"temperature": 1.1, "seed": 4, "num_return_sequences": 2},
)


@pairs
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_generation_in_a_batch_and_alone(pair: Pair, options: dict[str, Any], backend: str) -> None:
    """Of family, options, operations and codec any two meet."""
    several = prompts(9, 3, 14)
    places = FAMILIES.index(pair.name), OPTIONS.index(options), BACKENDS.index(backend)
    for number, kv_dtype in enumerate(("int8", "k8v4", "int4", ("float32", "int4"))):
        if not in_part(*places, number, out_of=4):
            continue
        wanted = {"max_new_tokens": 20, "kv_dtype": kv_dtype, **options}
        together = [c.token_ids for c in pair.llm.generate(several, **wanted)]
        alone = [c.token_ids for p in several for c in pair.llm.generate([p], **wanted)]
        assert together == alone
        assert all(len(ids) == 20 for ids in together)


@pairs
def test_the_models_own_dtype_is_the_default(pair: Pair) -> None:
    several = prompts(9, 3)
    plain = pair.llm.generate(several, max_new_tokens=20)
    named = pair.llm.generate(several, max_new_tokens=20, kv_dtype="float32")
    assert [c.token_ids for c in plain] == [c.token_ids for c in named]
    assert [c.cache_bytes for c in plain] == [c.cache_bytes for c in named]
    sizes = [
        sum(s.num_bytes(KV_CODECS[n]) for s in pair.model.kv_shapes) for n in ("float32", "int8")
    ]
    coded = pair.llm.generate(several, max_new_tokens=20, kv_dtype="int8")
    for before, after in zip(plain, coded, strict=True):
        assert after.cache_bytes * sizes[0] == before.cache_bytes * sizes[1]


@pairs
@pytest.mark.parametrize("kind", ["dynamic", "sliding"])
@pytest.mark.parametrize("kv_dtype", [None, "int8", "k8v4", "int4", ("bfloat16", "int8")])
def test_a_saved_prompt_goes_on_with_the_same_bits(
    pair: Pair, kind: str, kv_dtype: KVDtype | None, tmp_path: Path
) -> None:
    shapes = pair.model.kv_shapes
    window = {"sliding_window": 8} if kind == "sliding" else {}
    cache = make_cache(shapes, kind, num_slots=2, kv_dtype=kv_dtype, **window)
    ids = torch.tensor(prompts(14, 14))
    pair.model(ids[:, :10], cache=cache)
    cache.save(tmp_path / "prompt", fingerprint=pair.name)
    loaded = load_cache(tmp_path / "prompt", shapes, fingerprint=pair.name)
    for a, b in ((10, 11), (11, 14)):
        expected = pair.model(ids[:, a:b], cache=cache).logits
        assert torch.equal(pair.model(ids[:, a:b], cache=loaded).logits, expected)


@pytest.mark.parametrize("pair", ["gpt2"], indirect=True)
def test_a_stored_dtype_without_a_cache(pair: Pair) -> None:
    with pytest.raises(OptionError, match=r"kv_dtype='int8' describes a cache, but use_cache=Fa"):
        pair.llm.generate(prompts(3), use_cache=False, kv_dtype="int8")


@pairs
def test_attention_weights_over_turned_keys(pair: Pair) -> None:
    """Over the same rounded keys, whether they are stored turned or not. The new token's own key is
    rounded in one cache alone, so the weights of the others are compared."""
    ids = torch.tensor(prompts(17))
    coded, plain = (make_cache(pair.model.kv_shapes, kv_dtype=x) for x in ("int4", "float32"))
    pair.model(ids[:, :-1], cache=coded)
    for layer in range(coded.num_layers):
        [(k, v)] = coded.layer(layer)
        plain.update(k[None], v[None], layer)
    found = []
    for cache in (coded, plain):
        new = pair.model(ids[:, -1:], cache=cache, output_attentions=True)
        weights = new.attentions[0][..., :-1]
        found.append(weights / weights.sum(-1, keepdim=True))
    assert (found[0] - found[1]).abs().max() < 0.01
