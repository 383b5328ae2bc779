"""attn_implementation="kept": codes attended where they lie, as if they had been expanded."""

import copy
import logging
import pickle

import pytest
import torch
from transformers import AttentionInterface, DynamicCache

from kept.errors import CacheError, OptionError
from kept.integrations.transformers import KeptCache
from kept.integrations.transformers import attention as module
from kept.integrations.transformers.dense import attend_dense
from kept.integrations.transformers.held import Held, HeldTensor
from kept.integrations.transformers.masks import Said
from kept.integrations.transformers.versions import IS_5
from kept.machine import NATIVE_AVAILABLE
from kept.ops import attend_stored

from .models import WINDOW, decoder, generate, logits, padded, prompt

EXACT = {"atol": 2e-5, "rtol": 1e-4}
ROUNDED = 0.05  # over these codecs the kernels round queries and weights to bfloat16
CODECS = ("float32", "bfloat16", "float16", "int8", "int4")
OPS = [
    "reference",
    pytest.param("native", marks=pytest.mark.skipif(not NATIVE_AVAILABLE, reason="no kernels")),
]


def kept(model, **options):
    return KeptCache.from_config(model.config, **options)


def steps(model, cache, ids, mask):
    """Logits of a prompt, a step, a few drafts and another step."""
    found, at = [], 0
    for end in (ids.shape[1] - 5, ids.shape[1] - 4, ids.shape[1] - 1, ids.shape[1]):
        given = logits(model, cache, ids[:, at:end], mask[:, :end])
        found.append(given * mask[:, at:end, None])
        at = end
    return torch.cat(found, dim=1)


@pytest.fixture
def errors(monkeypatch):
    """Of each call of kept's attention, beside the same over expanded keys: as a part of the size
    of what is attended."""
    found = []
    kept_attention = module.kept_attention

    def both(layer, query, key, value, mask, **options):
        out, _ = kept_attention(layer, query, key, value, mask, **options)
        keys, values = (x.to(query.dtype) for x in key.held.expanded)
        if mask is None:  # what sdpa then takes for granted
            shape = query.shape[2], keys.shape[2]
            mask = torch.ones(shape, dtype=torch.bool).tril(shape[1] - shape[0])[None, None]
        options = {k: options.get(k) for k in ("scaling", "softcap")}
        exact, _ = attend_dense(
            layer, query, keys, values, mask, dropout=0.0, is_causal=False, **options
        )
        real = mask.any(-1).squeeze(1)  # (B, T) rows that are not padding
        worst = (out - exact).abs().amax((2, 3)).expand_as(real)[real].max()
        found.append(float(worst / values.abs().max()))
        return out, None

    AttentionInterface.register("kept", both)
    yield found
    module.register()


@pytest.fixture
def no_expansion(monkeypatch):
    """Expanding a cache is an error; `expanded` does it all the same."""
    monkeypatch.setattr(Held, "expanded", property(Held.dense.func), raising=False)

    def refuse(held):
        raise AssertionError("keys and values were expanded")

    monkeypatch.setattr(Held, "dense", property(refuse))


@pytest.mark.usefixtures("no_expansion")
@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("kv_dtype", CODECS)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_equals_the_same_cache_expanded(family, kv_dtype, ops, monkeypatch, errors):
    monkeypatch.setenv("KEPT_OPS", ops)
    model = decoder(family, "kept")
    rounded = ops == "native" and kv_dtype in ("bfloat16", "int8", "int4")
    for layout in ("dynamic", "sliding") if family == "gemma2" else ("dynamic",):
        steps(model, kept(model, kv_dtype=kv_dtype, layout=layout), *padded(17, 11, 17))
        assert len(errors) == 3 * 4
        assert max(errors) < (ROUNDED if rounded else 1e-5)
        errors.clear()


@pytest.mark.usefixtures("no_expansion")
@pytest.mark.parametrize("ops", OPS)
def test_bfloat16_models(ops, monkeypatch, errors):
    monkeypatch.setenv("KEPT_OPS", ops)
    model = decoder("llama", "kept", rms_norm_eps=1.1e-6).bfloat16()
    found = steps(model, kept(model, kv_dtype="int8"), *padded(17, 11))
    assert found.dtype == torch.bfloat16
    assert max(errors) < ROUNDED


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_logits_over_int8_are_near_those_over_float32(family, ops, monkeypatch):
    monkeypatch.setenv("KEPT_OPS", ops)
    model = decoder(family, "kept")
    ids, mask = padded(17, 11, 17)
    exact, found = (steps(model, kept(model, kv_dtype=x), ids, mask) for x in (None, "int8"))
    assert (found - exact).norm() < 0.1 * exact.norm()


@pytest.mark.skipif(not NATIVE_AVAILABLE, reason="no kernels")
def test_padding_does_not_move_a_bit():
    """Kernels see a padded sequence from its first token on, as they would alone."""
    model = decoder("mistral", "kept")
    cache, alone = (kept(model, kv_dtype="int8") for _ in range(2))
    new = torch.randn(2, 2, 90, 12)
    query = torch.randn(2, 4, 90, 12)
    attention = model.model.layers[0].self_attn
    for index in range(3):
        keys, values = cache.update(new, new, index)
        alone_keys, alone_values = alone.update(new[1:, :, 17:], new[1:, :, 17:], index)
    mask = torch.ones(2, 1, 90, 90, dtype=torch.bool).tril()
    mask.kept_said = Said((0, 17), WINDOW)
    plain = torch.ones(1, 1, 73, 73, dtype=torch.bool).tril()
    plain.kept_said = Said((), WINDOW)
    with torch.no_grad():
        out, _ = module.kept_attention(attention, query, keys, values, mask)
        single, _ = module.kept_attention(
            attention, query[1:, :, 17:], alone_keys, alone_values, plain
        )
    assert torch.equal(out[1:, 17:], single)
    assert not out[1, :17].any()


@pytest.mark.parametrize(("window", "sinks"), [(5, 0), (5, 2), (WINDOW, 1)])
@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("cuts", [(20,), (7, 1, 1, 4, 7)])
def test_sinks_and_narrower_windows(window, sinks, ops, cuts, monkeypatch):
    """The model attends what a mask of the same rule leaves it, however the text is cut."""
    monkeypatch.setenv("KEPT_OPS", ops)
    ids = prompt(2, 20)
    token, query = torch.arange(20), torch.arange(20)[:, None]
    seen = (token <= query) & ((token > query - window) | (token < sinks))
    eager = decoder("llama")
    lowest = torch.finfo(torch.float32).min
    rule = torch.where(seen, 0.0, lowest).expand(2, 1, 20, 20)
    with torch.no_grad():
        expected = eager(ids, attention_mask=rule).logits
    model = decoder("llama", "kept")
    cache = kept(model, layout="sliding", sliding_window=window, num_sinks=sinks)
    found = torch.cat([logits(model, cache, part) for part in ids.split(cuts, dim=1)], dim=1)
    torch.testing.assert_close(found, expected, **EXACT)
    assert cache.layers[0].keys.shape[2] == window - 1


def test_sinks_refuse_padding():
    model = decoder("llama", "kept")
    cache = kept(model, layout="sliding", sliding_window=5, num_sinks=2)
    with pytest.raises(CacheError, match="sinks"):
        generate(model, cache, *padded(9, 4))


def test_an_evicting_cache_is_refused():
    with pytest.raises(OptionError, match="layout='sliding'"):
        kept(decoder("llama", "kept"), layout="evicting")


def test_a_cache_that_forgets_needs_kepts_attention():
    with pytest.raises(OptionError, match="attn_implementation='kept'"):
        kept(decoder("llama"), layout="sliding", sliding_window=5)
    model = decoder("llama", "kept")
    cache = kept(model, layout="sliding", sliding_window=5)
    with pytest.raises(CacheError, match="attn_implementation='kept'"):
        logits(decoder("llama"), cache, prompt())


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
@pytest.mark.parametrize("kv_dtype", [None, "int8"])
def test_masks_of_ones_own(family, kv_dtype):
    """Holes in a mask, padding on the right, masks of four dimensions: as eager honours them."""
    model, eager = decoder(family, "kept"), decoder(family)
    ids = prompt(2, 10)
    holes = torch.ones(2, 10, dtype=torch.long)
    holes[0, 3:5] = 0
    right = torch.ones(2, 10, dtype=torch.long)
    right[1, 7:] = 0
    strange = torch.ones(10, 10, dtype=torch.bool).tril()
    strange[6:, 2] = False
    masks = [holes, right]
    if family == "llama":  # of hybrid models it would be every layer's
        lowest = torch.finfo(torch.float32).min
        masks.append(torch.where(strange, 0.0, lowest).expand(2, 1, 10, 10).contiguous())
    for mask in masks:
        found = logits(model, kept(model, kv_dtype=kv_dtype), ids, mask)
        expected = logits(eager, kept(eager, kv_dtype=kv_dtype), ids, mask)
        if mask.ndim == 2:
            found, expected = (x * mask[..., None] for x in (found, expected))
        # A code may fall on the other side of a rounding in another attention's last bit.
        bound = {"atol": 0.01, "rtol": 0.01} if kv_dtype else EXACT
        torch.testing.assert_close(found, expected, **bound)


def test_without_a_kept_cache_it_is_sdpa(caplog):
    module.say_once.cache_clear()
    ids, mask = padded(9, 5)
    model = decoder("llama", "kept")
    with torch.no_grad():
        found = model(ids, attention_mask=mask, use_cache=False).logits
        expected = decoder("llama")(ids, attention_mask=mask, use_cache=False).logits
    mask = mask[..., None]
    torch.testing.assert_close(found * mask, expected * mask, **EXACT)
    with caplog.at_level(logging.WARNING, logger="kept"):
        text = generate(model, None, ids)
    assert "KeptCache.from_config" in caplog.text
    assert torch.equal(text, generate(decoder("llama"), None, ids))


def test_a_model_switched_to_another_attention_gets_the_numbers():
    cache = kept(decoder("llama", "kept"), kv_dtype="int8")
    eager = decoder("llama")
    expected = generate(eager, kept(eager, kv_dtype="int8"), prompt(2))
    assert torch.equal(generate(eager, cache, prompt(2)), expected)


def test_stand_ins_compute_as_what_they_stand_for():
    cache, own = kept(decoder("llama", "kept"), kv_dtype="int4"), kept(decoder("llama"))
    new = torch.randn(2, 2, 5, 12)
    for layer in range(3):
        keys, values = cache.update(new, 2 * new, layer)
        assert isinstance(keys, HeldTensor)
        assert not isinstance(own.update(new, 2 * new, layer)[0], HeldTensor)
    assert keys.shape == (2, 2, 5, 12)
    assert torch.equal(keys + 0, cache.layers[2].keys)
    assert torch.equal(values.transpose(1, 2)[:, 1:], cache.layers[2].values.transpose(1, 2)[:, 1:])
    assert "(2, 2, 5, 12)" in repr(keys)


@pytest.mark.parametrize("codec", ["float32", "int4"])
def test_stand_ins_are_laid_out_as_they_say(codec):
    """torch takes `F.linear` and its like apart by what a tensor says of its strides."""
    cache = kept(decoder("llama", "kept"), kv_dtype=codec)
    new, weight = torch.randn(2, 2, 5, 12), torch.randn(7, 12)
    for layer in range(3):
        for x in cache.update(new, 2 * new, layer):
            stored = x + 0
            assert torch.equal(torch.nn.functional.linear(x, weight), stored @ weight.mT)
            assert torch.equal(x.view(4, 5, 12), stored.view(4, 5, 12))
            assert torch.equal(torch.einsum("bgsd,ed->bgse", x, weight), stored @ weight.mT)
            assert x.contiguous().stride() == x.stride() == stored.contiguous().stride()
            for copied in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
                assert type(copied) is torch.Tensor
                assert torch.equal(copied, stored)


def test_gradients_reach_the_queries(caplog):
    module.say_once.cache_clear()
    model = decoder("llama", "kept")
    cache = kept(model)
    out = model(prompt(), past_key_values=cache).logits
    eager = decoder("llama")
    torch.testing.assert_close(out, eager(prompt()).logits, **EXACT)
    out.sum().backward()
    assert model.model.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0
    model.zero_grad()
    model(prompt(), past_key_values=cache)
    assert "no_grad" in caplog.text


def test_a_cache_of_another_model_is_refused():
    for made, used in (("mistral", "llama"), ("llama", "mistral")):
        model = decoder(used, "kept")
        cache = KeptCache.from_config(decoder(made, "kept").config)
        with pytest.raises(OptionError, match=r"from_config\(model\.config\)"):
            logits(model, cache, prompt())


def test_what_it_cannot_compute_is_refused():
    model = decoder("llama", "kept")
    attention = model.model.layers[0].self_attn
    x = torch.randn(1, 4, 1, 12)
    with pytest.raises(OptionError, match="s_aux"):
        module.kept_attention(attention, x, x, x, None, s_aux=torch.zeros(4))


# 4.57 says so of any attention but its own, and returns what it is given.
@pytest.mark.filterwarnings("ignore:.output_attentions=True. is not supported:UserWarning")
@pytest.mark.parametrize("family", ["llama", "gemma2", "mistral", *["gpt2"] * IS_5])
def test_weights_are_those_of_eager(family, caplog):
    module.say_once.cache_clear()
    model, eager = decoder(family, "kept"), decoder(family)
    ids, mask = padded(9, 5)
    cache, theirs = kept(model), DynamicCache(config=eager.config)
    with torch.no_grad():
        for begin, end in ((0, 8), (8, 9)):
            inputs = {"attention_mask": mask[:, :end], "output_attentions": True}
            found = model(ids[:, begin:end], past_key_values=cache, **inputs)
            want = eager(ids[:, begin:end], past_key_values=theirs, **inputs)
            real = mask[:, begin:end].bool()
            torch.testing.assert_close(found.logits[real], want.logits[real], **EXACT)
            assert len(found.attentions) == len(want.attentions) == 3
            for x, y in zip(found.attentions, want.attentions, strict=True):
                torch.testing.assert_close(
                    x.transpose(1, 2)[real], y.transpose(1, 2)[real], **EXACT
                )
    assert caplog.text.count("output_attentions") == 1


def test_a_mask_of_ones_own_is_named_once(caplog):
    module.say_once.cache_clear()
    model = decoder("llama", "kept")
    ids, mask = padded(9, 9)
    logits(model, kept(model), ids, mask)
    assert not caplog.text
    mask[0, 4] = 0
    for _ in range(2):
        found = logits(model, kept(model), ids, mask)
        torch.testing.assert_close(found, logits(decoder("llama"), None, ids, mask), **EXACT)
    assert caplog.text.count("more than padding on the left") == 1


def test_float16_models_run_on_the_reference():
    model = decoder("qwen3", "kept", rms_norm_eps=1.2e-6).half()
    cache = kept(model, kv_dtype="int8")
    found = logits(model, cache, prompt())
    expected = logits(decoder("qwen3").half(), kept(decoder("qwen3"), kv_dtype="int8"), prompt())
    decoder("qwen3").float()
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0.1)


@pytest.mark.skipif(not NATIVE_AVAILABLE, reason="no kernels")
def test_codecs_the_kernels_do_not_read_are_named(monkeypatch):
    monkeypatch.setenv("KEPT_OPS", "native")
    model = decoder("llama", "kept")
    with pytest.raises(OptionError, match="float64"):
        logits(model, kept(model, kv_dtype="float64"), prompt())
    assert attend_stored.__module__ == "kept.ops.attention"
