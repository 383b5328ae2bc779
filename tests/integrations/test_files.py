"""Saved and loaded, a cache goes on with the same bits, in the model it belongs to."""

import copy
import pickle

import pytest
import torch

from kept.errors import CacheError
from kept.integrations.transformers import KeptCache, KeptEncoderDecoderCache

from .models import decoder, generate, logits, prompt, t5

CASES = [
    ("llama", {"kv_dtype": "int8"}),
    ("llama", {"layout": "static", "max_cache_len": 40, "kv_dtype": "int4"}),
    ("gemma3_text", {"layout": "sliding", "kv_dtype": "float16"}),
]


@pytest.mark.parametrize("attention", ["eager", "kept"])
@pytest.mark.parametrize(("family", "options"), CASES)
def test_goes_on(family, options, attention, tmp_path):
    model = decoder(family, attention)
    cache = KeptCache.from_config(model.config, **options)
    ids = prompt(2, 14)
    logits(model, cache, ids[:, :12])
    cache.save(tmp_path / "cache")
    loaded = KeptCache.load(tmp_path / "cache", model.config)
    assert loaded.get_seq_length() == 12
    assert loaded.layers[0].get_max_length() == cache.layers[0].get_max_length()
    for kept, other in zip(cache.layers, loaded.layers, strict=True):
        assert torch.equal(kept.keys.float(), other.keys.float())
    assert torch.equal(generate(model, loaded, ids), generate(model, cache, ids))


def test_sinks_are_kept(tmp_path):
    model = decoder("llama", "kept")
    options = {"layout": "sliding", "sliding_window": 4, "num_sinks": 2}
    cache = KeptCache.from_config(model.config, **options)
    ids = prompt(1, 14)
    logits(model, cache, ids[:, :12])
    cache.save(tmp_path / "cache")
    loaded = KeptCache.load(tmp_path / "cache", model.config)
    assert torch.equal(generate(model, loaded, ids), generate(model, cache, ids))


def test_only_into_its_own_model(tmp_path):
    model = decoder("llama")
    cache = KeptCache.from_config(model.config)
    with pytest.raises(CacheError, match="never held"):
        cache.save(tmp_path / "cache")
    logits(model, cache, prompt())
    cache.save(tmp_path / "cache", fingerprint="main")
    for config in (decoder("qwen3").config, decoder("llama", rope_theta=5.0).config):
        with pytest.raises(CacheError, match="fingerprint"):
            KeptCache.load(tmp_path / "cache", config, fingerprint="main")
    with pytest.raises(CacheError, match="fingerprint"):
        KeptCache.load(tmp_path / "cache", model.config, fingerprint="another")
    same = KeptCache.load(tmp_path / "cache", decoder("llama", "kept").config, fingerprint="main")
    assert same.get_seq_length() == 9
    with pytest.raises(CacheError, match="not a file"):
        KeptCache.load(tmp_path / "nowhere", model.config)
    (tmp_path / "cut").write_bytes((tmp_path / "cache").read_bytes()[:-9])
    with pytest.raises(CacheError, match="damaged"):
        KeptCache.load(tmp_path / "cut", model.config, fingerprint="main")


def test_pairs(tmp_path):
    model = t5()
    ids = prompt(2)
    cache = KeptEncoderDecoderCache.from_config(model.config, kv_dtype="int8")
    start = torch.tensor([[0, 5, 6]] * 2)
    with torch.no_grad():
        model(ids, decoder_input_ids=start, past_key_values=cache)
    cache.save(tmp_path / "pair")
    loaded = KeptEncoderDecoderCache.load(tmp_path / "pair", model.config)
    assert loaded.is_updated == dict.fromkeys(range(3), True)
    more = torch.tensor([[7, 8]] * 2)
    with torch.no_grad():
        found, expected = (
            model(ids, decoder_input_ids=more, past_key_values=x).logits for x in (loaded, cache)
        )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("attention", ["eager", "kept"])
@pytest.mark.parametrize(("family", "options"), [*CASES, ("llama", {})])
def test_a_pickle_goes_on(family, options, attention):
    model = decoder(family, attention)
    cache = KeptCache.from_config(model.config, **options)
    ids = prompt(2, 14)
    empty = pickle.loads(pickle.dumps(cache))
    logits(model, cache, ids[:, :12])
    for found in (pickle.loads(pickle.dumps(cache)), copy.deepcopy(cache)):
        assert found.get_seq_length() == 12
        assert found.num_bytes == cache.num_bytes
        assert torch.equal(
            logits(model, found, ids[:, 12:]), logits(model, cache.fork(), ids[:, 12:])
        )
    fresh = KeptCache.from_config(model.config, **options)
    assert torch.equal(logits(model, empty, ids), logits(model, fresh, ids))


def test_a_pair_in_a_pickle_goes_on():
    model, ids = t5(), prompt(2, 6)
    pair = KeptEncoderDecoderCache.from_config(model.config, kv_dtype="int8")
    starts = torch.zeros(2, 1, dtype=torch.int64)

    def step(cache):
        with torch.no_grad():
            return model(input_ids=ids, decoder_input_ids=starts, past_key_values=cache).logits

    step(pair)
    copies = pickle.loads(pickle.dumps(pair)), copy.deepcopy(pair)
    want = step(pair)
    for found in copies:
        assert type(found.cross_attention_cache) is type(pair.cross_attention_cache)
        assert torch.equal(step(found), want)
