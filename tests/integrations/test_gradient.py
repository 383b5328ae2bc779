"""Training through a kept cache: gradients are transformers' own, or `backward` says why not."""

import pytest
import torch
from transformers import DynamicCache

from kept.errors import CacheError
from kept.integrations.transformers import KeptCache, KeptEncoderDecoderCache

from .models import decoder, prompt, t5

EXACT = {"atol": 1e-4, "rtol": 1e-3}


def gradients(model, cache, *passes, prefix=None):
    model.zero_grad()
    if prefix is not None:
        with torch.no_grad():
            model(prefix, past_key_values=cache)
    for ids in passes:
        out = model(ids, past_key_values=cache).logits
    out.square().mean().backward()
    return {name: x.grad.clone() for name, x in model.named_parameters() if x.grad is not None}


@pytest.mark.parametrize(
    ("family", "layout"), [("llama", "static"), ("gemma2", "dynamic"), ("mistral", "dynamic")]
)
@pytest.mark.parametrize("attention", ["sdpa", "kept"])
@pytest.mark.parametrize("prefix", [None, 8])
def test_of_a_pass_they_are_those_of_a_dynamic_cache(family, attention, prefix, layout):
    attention = "eager" if (family, attention) == ("gemma2", "sdpa") else attention
    theirs, model = decoder(family), decoder(family, attention)
    ids, before = prompt(2, 7), None if prefix is None else prompt(2, prefix, seed=5)
    options = {"layout": "static", "max_cache_len": 32} if layout == "static" else {}
    want = gradients(theirs, DynamicCache(config=theirs.config), ids, prefix=before)
    cache = KeptCache.from_config(model.config, **options)
    found = gradients(model, cache, ids, prefix=before)
    assert any("k_proj" in name for name in want)
    assert found.keys() == want.keys()
    for name, x in want.items():
        torch.testing.assert_close(found[name], x, **EXACT)


@pytest.mark.parametrize("attention", ["sdpa", "kept"])
def test_to_earlier_passes_there_are_none(attention):
    model = decoder("llama", attention)
    cache = KeptCache.from_config(model.config)
    with pytest.raises(CacheError, match="earlier passes"):
        gradients(model, cache, prompt(2, 5), prompt(2, 3))
    cache.reset()
    assert "model.layers.0.self_attn.k_proj.weight" in gradients(model, cache, prompt(2, 5))
    cache.crop(-5)  # what was stored under autograd is gone
    gradients(model, cache, prompt(2, 4))
    cache.crop(-2)
    with pytest.raises(CacheError, match="earlier passes"):
        gradients(model, cache.fork(), prompt(2, 1))
    with pytest.raises(CacheError, match="earlier passes"):
        cache.layers[0].keys.sum().backward()
    with torch.no_grad():  # nothing of this stands in the way of a text
        assert not model(prompt(2, 1), past_key_values=cache).logits.requires_grad


@pytest.mark.parametrize("attention", ["sdpa", "kept"])
def test_through_codes_there_are_none(attention):
    model = decoder("llama", attention)
    with pytest.raises(CacheError, match="stored as int8"):
        gradients(model, KeptCache.from_config(model.config, kv_dtype="int8"), prompt())


def test_an_encoders_keys_pass_them_on_once():
    model = t5()
    pair = KeptEncoderDecoderCache.from_config(model.config)
    ids = prompt(2, 6)

    def step():
        model.zero_grad()
        out = model(input_ids=ids, decoder_input_ids=ids[:, :1], past_key_values=pair)
        out.logits.square().mean().backward()
        return model.decoder.block[0].layer[1].EncDecAttention.k.weight.grad

    assert step().abs().sum() > 0
    with pytest.raises(CacheError, match="earlier passes"):
        step()
    model.zero_grad()
