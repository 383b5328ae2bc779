"""A layer whose values lie in its keys holds the keys of one that stores both, and their first
numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kept.cache import KVShape, load_cache, make_cache
from kept.errors import CacheError, OptionError
from kept.ops import AttentionSpec, attend_stored

KEY, VALUE = 48, 32
CODECS = ("float32", "bfloat16", "float16", "int8", "int4")
KINDS = (
    {"kind": "dynamic"},
    {"kind": "dynamic", "in_blocks": False},
    {"kind": "static", "max_cache_len": 40},
    {"kind": "sliding", "sliding_window": 5, "num_sinks": 2},
)
EVICTING = {"kind": "evicting", "budget": 12, "grain": 4}


def pair(codec, kind, heads=1):
    """The cache, and one that stores values which are equal to the keys' beginnings."""
    lean = KVShape(heads, KEY, value_dim=VALUE, values_in_keys=True)
    return tuple(
        make_cache([shape] * 2, kv_dtype=codec, **kind)
        for shape in (lean, KVShape(heads, KEY, value_dim=VALUE))
    )


def store(caches, count, seed):
    generator = torch.Generator().manual_seed(seed)
    for layer in range(2):
        shape = caches[0].num_slots, caches[0].shapes[0].num_kv_heads, count, KEY
        k = torch.randn(shape, generator=generator)
        for cache in caches:
            cache.update(k, k[..., :VALUE], layer)


def check(lean, plain):
    assert lean.lengths == plain.lengths
    for layer in range(2):
        begin = max(0, max(lean.lengths) - 4) if "sliding" in lean.name else 0
        for mine, theirs in zip(lean.layer(layer, begin), plain.layer(layer, begin), strict=True):
            assert torch.equal(mine[0], theirs[0])
            assert torch.equal(mine[1], mine[0][..., :VALUE])


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("codec", CODECS)
@settings(max_examples=3, deadline=None, derandomize=True)
@given(steps=st.lists(st.integers(0, 4), min_size=2, max_size=6))
def test_every_operation(codec, kind, steps, tmp_path_factory):
    lean, plain = pair(codec, kind)
    store((lean, plain), 4, 0)
    for seed, step in enumerate(steps):
        if step == 0:
            for cache in (lean, plain):
                cache.select([0, 0] if cache.num_slots == 1 else [1])
        elif step == 1:
            for cache in (lean, plain):
                cache.truncate(max(cache.lengths[0] - 2, 0))
        elif step == 2:
            lean, plain = lean.fork(), plain.fork()
        elif step == 3:
            path = tmp_path_factory.mktemp("saved") / "cache.safetensors"
            lean.save(path)
            lean = load_cache(path, lean.shapes)
        if lean.lengths[0] < 30:
            store((lean, plain), 1 + step % 3, seed + 1)
        check(lean, plain)


@pytest.mark.parametrize("codec", CODECS)
def test_a_token_takes_the_bytes_of_its_key(codec):
    lean, plain = pair(codec, {"kind": "static", "max_cache_len": 40})
    shape = lean.shapes[0]
    assert lean.layers[0].num_bytes(lean.layouts[0]) == 40 * shape.num_bytes(lean.codec)
    assert shape.num_bytes(lean.codec) == lean.codec.keys.num_bytes(KEY)
    assert shape.num_bytes(lean.codec) < plain.shapes[0].num_bytes(lean.codec)
    assert shape.numel == KEY


@pytest.mark.parametrize("codec", CODECS)
def test_tokens_leave_whole(codec):
    lean, plain = pair(codec, EVICTING)
    for seed in range(10):
        store((lean, plain), 2, seed)
    for layer in range(2):
        assert torch.equal(lean.held(layer)[0], plain.held(layer)[0])
        k, v = lean.layers[layer].read(0, list(range(12)))
        assert torch.equal(k, plain.layers[layer].read(0, list(range(12)))[0])
        assert torch.equal(v, k[..., :VALUE])


@pytest.mark.parametrize("kind", KINDS[:2], ids=str)
@pytest.mark.parametrize("codec", CODECS)
def test_attention(codec, kind):
    lean, _ = pair(codec, kind, heads=2)
    generator = torch.Generator().manual_seed(1)
    k = torch.randn(1, 2, 9, KEY, generator=generator)
    q = torch.randn(9, 4, KEY, generator=generator)
    view = lean.put(k, k[..., :VALUE], 0)
    found = attend_stored(q, view, AttentionSpec(0.2))
    keys, values = (x[0].repeat_interleave(2, 0).float() for x in view.dense())
    hidden = torch.ones(9, 9, dtype=torch.bool).triu(1)
    scores = (q.transpose(0, 1) @ keys.transpose(1, 2) * 0.2).masked_fill(hidden, -torch.inf)
    want = (scores.softmax(-1) @ values).transpose(0, 1)
    exact = codec in ("float32", "float16")
    torch.testing.assert_close(found, want, atol=1e-5 if exact else 2e-2, rtol=1e-4)


def test_what_cannot_be():
    with pytest.raises(OptionError, match="name one codec, such as 'int8'"):
        pair("k8v4", KINDS[0])
    with pytest.raises(OptionError, match=r"blocks of \[32, 8\].*use 'int8'"):
        make_cache([KVShape(1, 40, value_dim=16, values_in_keys=True)], kv_dtype="int4")
    with pytest.raises(OptionError, match="no longer than these"):
        make_cache([KVShape(1, 8, value_dim=9, values_in_keys=True)])
    with pytest.raises(OptionError, match="True or False"):
        make_cache([KVShape(1, 8, value_dim=4, values_in_keys=1)])
    cache, k = pair("float32", KINDS[0])[0], torch.ones(1, 1, 3, KEY)
    with pytest.raises(CacheError, match="whose first 32 numbers"):
        cache.update(k, k[..., :VALUE] + 1, 0)


def test_a_file_is_of_its_layers_alone(tmp_path):
    lean, plain = pair("int8", KINDS[0])
    for name, cache, other in (("lean", lean, plain), ("plain", plain, lean)):
        store((cache,), 3, 0)
        cache.save(tmp_path / name)
        with pytest.raises(CacheError, match="load it for the model"):
            load_cache(tmp_path / name, other.shapes)
