"""What a kept cache does as transformers asks it, beside what theirs does."""

import copy

import pytest
import torch
from transformers import DynamicCache

from kept.errors import CacheError, CacheFullError, OptionError
from kept.integrations.transformers import KeptCache
from kept.integrations.transformers.versions import IS_5

from .models import WINDOW, decoder, generate, logits, padded, prompt, theirs

EXACT = {"atol": 1e-5, "rtol": 1e-4}
CODECS = ("float32", "bfloat16", "float16", "int8", "int4")
LAYOUTS = ({}, {"layout": "static", "max_cache_len": 64}, {"layout": "sliding"})


def kept(model, **options):
    return KeptCache.from_config(model.config, **options)


def remove(cache, count):
    """`crop` from the end, which 4.57 and 5 both take."""
    cache.crop(-count)


def select(cache):
    cache.batch_select_indices(torch.tensor([2, 0]))


def repeat(cache):
    cache.batch_repeat_interleave(2)


def reorder(cache):
    cache.reorder_cache(torch.tensor([1, 1, 0]))


def crop(cache):
    remove(cache, 3)


def crop_nothing(cache):
    remove(cache, 0) if IS_5 else cache.crop(cache.get_seq_length())


OPERATIONS = (crop, crop_nothing, reorder, repeat, select)


@pytest.mark.parametrize("kv_dtype", CODECS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_move_what_is_stored(operation, kv_dtype):
    """Codes and scales alike: what is read after is what theirs holds of what was read before."""
    model = decoder("llama")
    cache, own = kept(model, kv_dtype=kv_dtype), DynamicCache()
    logits(model, cache, prompt(3))
    for index, layer in enumerate(cache.layers):
        own.update(layer.keys.clone(), layer.values.clone(), index)
    operation(cache)
    operation(own)
    for mine, other in zip(cache.layers, own.layers, strict=True):
        assert torch.equal(mine.keys, other.keys)
        assert torch.equal(mine.values, other.values)
    assert cache.get_seq_length() == own.get_seq_length()


@pytest.mark.parametrize("attention", ["eager", "kept"])
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_go_on_as_theirs_do(operation, family, attention):
    model = decoder(family, attention)
    more = prompt({select: 2, repeat: 6}.get(operation, 3), 2, seed=9)
    full = DynamicCache()  # of a windowed model all tokens: theirs cannot crop a full window
    logits(decoder(family), full, prompt(3, 12))
    operation(full)
    expected = logits(decoder(family), full, more)
    for options in LAYOUTS if family != "llama" else LAYOUTS[:2]:
        cache = kept(model, **options)
        logits(model, cache, prompt(3, 12))
        operation(cache)
        torch.testing.assert_close(logits(model, cache, more), expected, **EXACT)


def test_a_window_that_forgot_refuses():
    model = decoder("mistral")
    cache = kept(model, layout="sliding")
    for part in prompt(1, 200).split(50, dim=1):
        logits(model, cache, part)
    with pytest.raises(CacheError, match="cannot go back to 100"):
        remove(cache, 100)
    assert cache.get_seq_length() == 200
    remove(cache, 64)


def test_positive_crop():
    model = decoder("llama")
    cache = kept(model)
    logits(model, cache, prompt())
    if IS_5:
        with pytest.raises(OptionError, match=r"crop\(-5\)"):
            cache.crop(4)
    else:
        cache.crop(4)
        assert cache.get_seq_length() == 4
        cache.crop(50)
        assert cache.get_seq_length() == 4


def test_reset_takes_another_batch():
    model = decoder("llama")
    cache = kept(model)
    expected = generate(model, cache, prompt(2))
    cache.reset()
    assert cache.get_seq_length() == 0
    assert cache.layers[0].keys is None
    generate(model, cache, prompt(3))
    cache.reset()
    assert torch.equal(generate(model, cache, prompt(2)), expected)


@pytest.mark.parametrize("twin_of", [copy.deepcopy, KeptCache.fork])
def test_a_copy_goes_its_own_way(twin_of):
    """A prompt's cache copied for each of its continuations, as transformers' guide does."""
    model = decoder("gemma3_text")
    start = kept(model, kv_dtype="int8")
    logits(model, start, prompt(1, 12))
    texts = []
    for seed in (1, 2):
        cache = twin_of(start)
        ids = torch.cat([prompt(1, 12), prompt(1, 3, seed=seed)], dim=1)
        texts.append(generate(model, cache, ids))
        assert start.get_seq_length() == 12
        fresh = kept(model, kv_dtype="int8")
        logits(model, fresh, prompt(1, 12))
        assert torch.equal(texts[-1], generate(model, fresh, ids))


def test_growing_copies_nothing_but_now_and_then():
    model = decoder("llama")
    cache = kept(model)
    new = torch.randn(1, 2, 1, 12)
    places = set()
    for _ in range(150):
        for layer in range(3):
            keys, _ = cache.update(new, new, layer)
            places.add((layer, keys.data_ptr()))
        assert keys.shape[2] == cache.get_seq_length()
    assert len(places) == 3 * 3  # at 64, 128 and 192 tokens


def test_update_returns_what_the_mask_was_promised():
    model = decoder("gemma2")
    for options in LAYOUTS:
        cache = kept(model, **options)
        for count in (5, 1, 3, 9, 1, 1):
            sizes = []
            for index, layer in enumerate(cache.layers):
                given = count if IS_5 else torch.arange(count)
                sizes.append(cache.get_mask_sizes(given, index))
                assert sizes[-1] == layer.get_mask_sizes(given)
            past = cache.get_seq_length()
            for index, (length, offset) in enumerate(sizes):
                new = torch.randn(1, 2, count, 12)
                keys, values = cache.update(new, new, index)
                assert keys.shape == values.shape == (1, 2, length, 12)
                assert offset + length == past + count
                assert torch.equal(keys[:, :, -count:], new)
            windows = [WINDOW, None, WINDOW]
            for (length, _), window in zip(sizes, windows, strict=True):
                assert window is None or length <= window - 1 + count


def test_a_full_static_cache_refuses():
    model = decoder("llama")
    cache = kept(model, layout="static", max_cache_len=12)
    with pytest.raises(CacheFullError, match="max_cache_len"):
        generate(model, cache, prompt())
    assert cache.get_seq_length() == 12


def test_a_pass_that_failed_is_named_and_dropped():
    model = decoder("llama", "eager")
    cache = kept(model)
    logits(model, cache, prompt())
    expected = logits(model, kept(model), prompt(1, 11))[:, -2:]
    with pytest.raises(RuntimeError, match="on purpose"), Fails(model.model.layers[1]):
        logits(model, cache, prompt(1, 11)[:, 9:])
    assert cache.get_seq_length() == 9
    with pytest.raises(CacheError, match=r"abandon\(\)"):
        logits(model, cache, prompt(1, 11)[:, 9:])
    cache.abandon()
    torch.testing.assert_close(logits(model, cache, prompt(1, 11)[:, 9:]), expected, **EXACT)


class Fails:
    """A layer's pass raises inside the block."""

    def __init__(self, layer):
        self.layer = layer

    def __enter__(self):
        def fail(*_):
            raise RuntimeError("on purpose")

        self.handle = self.layer.register_forward_pre_hook(fail)

    def __exit__(self, *_):
        self.handle.remove()


def test_layers_refuse_to_move_alone():
    cache = kept(decoder("llama"))
    with pytest.raises(CacheError, match="move together"):
        cache.layers[0].crop(-1)


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_a_loop_by_hand(family):
    model = decoder(family)
    ids, mask = padded(8, 5)
    for options in LAYOUTS if family == "mistral" else LAYOUTS[:2]:
        ours, own = kept(model, **options), theirs(model)
        given, seen = ids, mask
        for _ in range(12):
            found = logits(model, ours, given, seen)[:, -1]
            expected = logits(model, own, given, seen)[:, -1]
            torch.testing.assert_close(found, expected, **EXACT)
            given = expected.argmax(-1, keepdim=True)
            seen = torch.cat([seen, seen.new_ones(2, 1)], dim=1)
        assert ours.get_seq_length() == own.get_seq_length()
