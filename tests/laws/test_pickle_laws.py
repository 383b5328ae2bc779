"""A cache in a pickle, and a deep copy, go on as the cache itself does."""

import copy
import pickle

import pytest
import torch

from kept.cache import KVShape, make_cache
from kept.ops import find_kv_codec

KINDS = (
    {"kind": "dynamic"},
    {"kind": "static", "max_cache_len": 40},
    {"kind": "sliding", "sliding_window": 5, "num_sinks": 2},
    {"kind": "evicting", "budget": 8, "grain": 4},
)


def store(cache, count, seed):
    generator = torch.Generator().manual_seed(seed)
    for layer in range(2):
        new = torch.randn(2, 2, count, 6, generator=generator)
        cache.update(new, -new, layer)


@pytest.mark.parametrize("codec", ["float32", "int4"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda x: x["kind"])
@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_goes_on(kind, codec, again):
    cache = make_cache([KVShape(2, 6)] * 2, num_slots=2, kv_dtype=codec, **kind)
    assert again(cache).lengths == (0, 0)
    for seed in range(9):
        store(cache, 2, seed)
    k = torch.ones(2, 2, 1, 6)
    cache.update(k, k, 0)  # a step that is not complete stays behind
    found, _ = again(cache), cache.abandon()
    assert found.codec == find_kv_codec(codec)
    for seed in range(9, 12):
        assert found.lengths == cache.lengths
        assert found.num_bytes == cache.num_bytes
        for layer in range(2):
            assert all(map(torch.equal, found.held(layer), cache.held(layer)))
            for mine, theirs in zip(stored(found, layer), stored(cache, layer), strict=True):
                assert torch.equal(mine, theirs)
        store(found, 1, seed)
        assert found.lengths != cache.lengths
        store(cache, 1, seed)


def stored(cache, layer):
    """Keys and values of all tokens that a layer holds."""
    held = [x[0].tolist() for x in cache.held(layer)]
    entries = [layout_entries(cache, layer, slot, tokens) for slot, tokens in enumerate(held)]
    return [x for slot, at in enumerate(entries) for x in cache.layers[layer].read(slot, at)]


def layout_entries(cache, layer, slot, tokens):
    if cache.name == "sliding":
        return cache.layouts[layer].entries(slot, 0, len(tokens))
    return list(range(len(tokens)))
