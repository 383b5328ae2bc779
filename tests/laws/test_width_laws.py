"""A layer with values of another size than its keys holds what two layers hold: one that stores
the keys twice, and one that stores the values twice."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kept.cache import KVShape, load_cache, make_cache
from kept.errors import CacheError, OptionError
from kept.ops import AttentionSpec, attend_stored, find_kv_codec

HEADS, KEY, VALUE = 2, 37, 33  # values end within a group of codes that share a scale
CODECS = ("float32", "bfloat16", "int8", "int4", "k8v4")
KINDS = (
    {"kind": "dynamic"},
    {"kind": "static", "max_cache_len": 40},
    {"kind": "sliding", "sliding_window": 5, "num_sinks": 2},
)


def made(codec, kind, key=KEY, value=VALUE, **options):
    return make_cache([KVShape(HEADS, key, value_dim=value)] * 2, kv_dtype=codec, **kind, **options)


def trio(codec, kind):
    """The cache, and those whose keys or values it has to hold."""
    keys, values = find_kv_codec(codec).pair
    return (
        made(codec, kind),
        made((keys, keys), kind, KEY, KEY),
        made((values, values), kind, VALUE, VALUE),
    )


def store(caches, count, seed):
    generator = torch.Generator().manual_seed(seed)
    slots = caches[0].num_slots
    for layer in range(2):
        k = torch.randn(slots, HEADS, count, KEY, generator=generator)
        v = torch.randn(slots, HEADS, count, VALUE, generator=generator)
        for cache, pair in zip(caches, ((k, v), (k, k), (v, v)), strict=False):
            cache.update(*pair, layer)


def check(caches):
    both, keys, values = caches
    assert both.lengths == keys.lengths == values.lengths
    for layer in range(2):
        begin = min(int(held.min()) for held in both.held(layer) if held.numel())
        windowed = "sliding" in both.name
        begin = max(begin, max(both.lengths) - 4) if windowed else 0
        for mine, k, v in zip(*(x.layer(layer, begin) for x in caches), strict=True):
            assert mine[1].shape[-1] == VALUE
            assert torch.equal(mine[0], k[0].to(mine[0].dtype))
            assert torch.equal(mine[1], v[1].to(mine[1].dtype))


@pytest.mark.parametrize("kind", KINDS, ids=lambda x: x["kind"])
@pytest.mark.parametrize("codec", CODECS)
@settings(max_examples=3, deadline=None, derandomize=True)
@given(steps=st.lists(st.integers(0, 5), min_size=2, max_size=6))
def test_every_operation_moves_both(codec, kind, steps, tmp_path_factory):
    caches = list(trio(codec, kind))
    store(caches, 4, 0)
    for seed, step in enumerate(steps):
        if step == 0:
            for cache in caches:
                cache.select([0, 0] if cache.num_slots == 1 else [1])
        elif step == 1:
            for cache in caches:
                cache.truncate(max(cache.lengths[0] - 2, 0))
        elif step == 2:
            caches = [cache.fork() for cache in caches]
        elif step == 3:
            path = tmp_path_factory.mktemp("saved") / "cache.safetensors"
            caches[0].save(path)
            caches[0] = load_cache(path, caches[0].shapes)
        if caches[0].lengths[0] < 30:
            store(caches, 1 + step % 3, seed + 1)
        check(caches)


@pytest.mark.parametrize("codec", CODECS)
def test_bytes_are_those_of_both(codec):
    kind = {"kind": "static", "max_cache_len": 40}
    both = made(codec, kind)
    assert both.layers[0].num_bytes(both.layouts[0]) == 40 * both.shapes[0].num_bytes(both.codec)


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("codec", CODECS)
def test_attention_is_as_wide_as_values(codec, softcap):
    cache = made(codec, KINDS[0])
    generator = torch.Generator().manual_seed(1)
    k = torch.randn(1, HEADS, 9, KEY, generator=generator)
    v = torch.randn(1, HEADS, 9, VALUE, generator=generator)
    q = torch.randn(9, 2 * HEADS, KEY, generator=generator)
    view = cache.put(k, v, 0)
    found = attend_stored(q, view, AttentionSpec(0.2, softcap=softcap))
    keys, values = (x[0].repeat_interleave(2, 0).float() for x in view.dense())
    scores = q.transpose(0, 1) @ keys.transpose(1, 2) * 0.2
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    hidden = torch.ones(9, 9, dtype=torch.bool).triu(1)
    want = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ values
    exact = codec in ("float32", "float16")
    atol = 1e-5 if exact else 2e-2  # where kernels round queries and weights
    torch.testing.assert_close(found, want.transpose(0, 1), atol=atol, rtol=1e-4)


@pytest.mark.parametrize("codec", CODECS)
def test_tokens_leave_with_both(codec):
    kind = {"kind": "evicting", "budget": 12, "grain": 4}  # by the norm of keys
    both, keys, _ = trio(codec, kind)
    whole = made(codec, KINDS[0])
    for seed in range(10):
        store((both, keys), 2, seed)
        store((whole,), 2, seed)
    for layer in range(2):
        k, v = both.layers[layer].read(0, list(range(12)))
        assert torch.equal(k, keys.layers[layer].read(0, list(range(12)))[0].to(k.dtype))
        held, (_, every) = both.held(layer)[0], whole.layer(layer)[0]
        assert torch.equal(v, every.take_along_dim(held[..., None], 1))


def test_one_size_has_one_spelling():
    assert KVShape(2, 8, value_dim=8) == KVShape(2, 8)
    with pytest.raises(OptionError, match="value_dim"):
        make_cache([KVShape(2, 8), KVShape(2, 8, cross=True, value_dim=4)])
    with pytest.raises(CacheError, match=r"T, 37\) and \(B, 2, T, 33\)"):
        made("float32", KINDS[0]).update(torch.zeros(1, 2, 3, 37), torch.zeros(1, 2, 3, 37), 0)


@pytest.mark.parametrize("in_blocks", [True, False])
def test_a_layer_takes_another_shape_while_it_is_empty(in_blocks):
    cache = make_cache([KVShape(2, 8), KVShape(2, 8)], num_slots=2, in_blocks=in_blocks)
    k = torch.randn(2, 2, 5, 8)
    other = KVShape(1, 6, value_dim=4)
    cache.reshape(1, KVShape(1, 8))
    cache.update(k, k, 0)
    cache.reshape(1, other)
    new = torch.randn(2, 1, 5, 6), torch.randn(2, 1, 5, 4)
    cache.update(*new, 1)
    assert cache.lengths == (5, 5)
    assert torch.equal(torch.stack([v for _, v in cache.layer(1)]), new[1])
    for layer, shape in ((1, KVShape(2, 8)), (0, KVShape(1, 8))):
        with pytest.raises(CacheError, match="while nothing is stored"):
            cache.reshape(layer, shape)
    cache.reset()
    cache.reshape(1, KVShape(2, 8))
    with pytest.raises(CacheError, match="other heads only"):
        cache.reshape(1, KVShape(2, 8, window=4))
