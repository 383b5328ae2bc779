"""Layers that are not alike: sizes of their own, and an encoder's keys among the model's."""

import copy

import pytest
import torch
import transformers
from transformers import DynamicCache, EncoderDecoderCache

from kept.errors import CacheError, OptionError
from kept.integrations.transformers import KeptCache, KeptEncoderDecoderCache
from kept.integrations.transformers.versions import IS_5

from . import scan
from .models import generate, prompt

EXACT = {"atol": 1e-5, "rtol": 1e-4}
UNEVEN = ["deepseek_v3", "gemma4_text"] if IS_5 else ["deepseek_v3"]


@pytest.fixture(scope="module", params=UNEVEN)
def uneven(request):
    theirs = scan.build(request.param, "eager")
    return theirs, scan.build(request.param, "kept", theirs.state_dict())


@pytest.mark.parametrize("codec", [None, "bfloat16", "int8", "int4"])
def test_sizes_of_its_own_in_each_layer(uneven, codec, monkeypatch):
    monkeypatch.setenv("KEPT_OPS", "reference")  # kernels round queries as they round keys
    theirs, model = uneven
    caches = [KeptCache.from_config(model.config, kv_dtype=codec) for _ in range(2)]
    # A number on the edge between two codes may fall to either side.
    close = EXACT if codec is None else {"atol": 0.02, "rtol": 0.02}
    torch.testing.assert_close(
        scan.logits(model, caches[0]), scan.logits(theirs, caches[1]), **close
    )
    ours = scan.logits(theirs, own := DynamicCache(config=theirs.config))
    assert ours.isfinite().all()
    if codec is None:
        for mine, layer in zip(caches[0].layers, own.layers, strict=True):
            if layer.keys is not None:
                torch.testing.assert_close(mine.values[:, :, -4:], layer.values[:, :, -4:], **EXACT)
                assert mine.keys.shape[-1] == layer.keys.shape[-1]


def test_such_layers_do_every_operation(uneven, tmp_path):
    theirs, model = uneven
    ids = prompt(2, 9)
    cache = KeptCache.from_config(model.config)
    with torch.no_grad():
        model(ids, past_key_values=cache)
        cache.crop(-3)
        cache.batch_repeat_interleave(2)
        cache.reorder_cache(torch.tensor([3, 0, 0, 1]))
        cache.batch_select_indices(torch.tensor([0, 2]))
        cache.save(tmp_path / "cache.safetensors")
        again = KeptCache.load(tmp_path / "cache.safetensors", model.config)
        want = theirs(ids[[1, 0]]).logits[:, 6:]
        for found in (copy.deepcopy(cache), again, cache):
            torch.testing.assert_close(
                model(ids[[1, 0], 6:], past_key_values=found).logits, want, **EXACT
            )
        cache.reset()
        torch.testing.assert_close(
            model(ids, past_key_values=cache).logits, theirs(ids).logits, **EXACT
        )


def mllama(attention):
    config = transformers.models.mllama.configuration_mllama.MllamaTextConfig(
        vocab_size=67, hidden_size=32, intermediate_size=48, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, cross_attention_layers=[1, 3],
        pad_token_id=0, bos_token_id=1, eos_token_id=66, max_position_embeddings=128,
        rope_scaling={"rope_type": "default"},
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = transformers.MllamaForCausalLM._from_config(config, attn_implementation=attention)
        for name, parameter in model.named_parameters():
            # Gates of cross layers are zero at first, and would hide them.
            std = 0.2 if parameter.ndim > 1 or "gate" in name else 0.0
            if std:
                torch.nn.init.normal_(parameter, std=std)
    return model.eval()


@pytest.mark.parametrize("attention", ["eager", "kept"])
@pytest.mark.parametrize("seen", [True, False], ids=["image", "text"])
def test_an_encoders_layers_among_others(attention, seen, tmp_path):
    model, ids = mllama(attention), prompt(2, 7)
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(2, 5, 32, generator=generator) if seen else None

    @torch.no_grad()
    def steps(cache, move=lambda cache: None):
        first = model(ids[:, :4], cross_attention_states=image, past_key_values=cache).logits
        move(cache)
        return [first] + [model(ids[:, i : i + 1], past_key_values=cache).logits for i in (4, 5, 6)]

    cache = KeptCache.from_config(model.config)
    torch.testing.assert_close(steps(cache), steps(DynamicCache(config=model.config)), **EXACT)
    assert cache.get_seq_length() == 7
    assert cache.layers[1].get_seq_length() == (5 if seen else 0)
    swapped = torch.tensor([1, 0])
    torch.testing.assert_close(
        steps(KeptCache.from_config(model.config), lambda x: x.reorder_cache(swapped)),
        steps(DynamicCache(config=model.config), lambda x: x.reorder_cache(swapped))
        if seen
        else steps(KeptCache.from_config(model.config), lambda x: x.batch_select_indices(swapped)),
        **EXACT,
    )
    cache.save(tmp_path / "cache.safetensors")
    again = KeptCache.load(tmp_path / "cache.safetensors", model.config)
    with torch.no_grad():
        one = prompt(2, 1)
        assert torch.equal(
            model(one, past_key_values=again).logits, model(one, past_key_values=cache).logits
        )
    cache.reset()
    assert cache.layers[1].keys is None
    torch.testing.assert_close(steps(cache), steps(DynamicCache(config=model.config)), **EXACT)


def test_an_image_after_text_is_refused():
    model = mllama("eager")
    cache = KeptCache.from_config(model.config)
    with torch.no_grad():
        model(prompt(), past_key_values=cache)
        with pytest.raises(CacheError, match="another input"):
            model(prompt(), cross_attention_states=torch.ones(1, 5, 32), past_key_values=cache)


def t5gemma(attention):
    sizes = {
        "vocab_size": 67, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 6,
        "query_pre_attn_scalar": 8, "layer_types": ["sliding_attention", "full_attention"],
        "bos_token_id": 1, "eos_token_id": 66, "pad_token_id": 0,
    }  # fmt: skip
    decoder = {**sizes, "cross_attention_hidden_size": 32}
    config = transformers.T5GemmaConfig(encoder=sizes, decoder=decoder, vocab_size=67)
    config._attn_implementation = attention
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = transformers.T5GemmaForConditionalGeneration(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.mark.parametrize("attention", ["eager", "kept"])
@pytest.mark.parametrize("codec", [None, "int8"])
def test_a_model_that_makes_its_cross_cache_anew(attention, codec):
    model, ids = t5gemma(attention), prompt(2, 9)
    cache = KeptEncoderDecoderCache.from_config(model.config, kv_dtype=codec)
    theirs = EncoderDecoderCache(DynamicCache(config=model.config), DynamicCache())
    want = generate(t5gemma("eager"), theirs, ids)
    found = generate(model, cache, ids)
    cross = cache.cross_attention_cache
    assert cross.num_tokens == 9
    assert codec is None or codec in repr(cross)
    assert torch.equal(found, want) or codec is not None
    assert found.shape == want.shape
    with pytest.raises(OptionError, match="offloaded"):
        type(cross)(config=model.config.decoder, offloading=True)
