"""What is asked of transformers, and what is said where it cannot be had."""

import subprocess
import sys
from importlib import metadata

import pytest
import torch
import transformers
from transformers import AutoConfig

from kept.errors import CacheError, OptionError
from kept.integrations.transformers import KeptCache, versions
from kept.integrations.transformers.model import ModelLayers
from kept.integrations.transformers.versions import IS_5

from .models import SIZES, WINDOW, decoder
from .scan import build, tiny


def test_kept_does_without_transformers():
    code = (
        "import sys, kept.cache, kept.integrations;"
        "assert 'transformers' not in sys.modules;"
        "sys.modules['transformers'] = None;"
        "import importlib.metadata as m;"
        "def gone(name): raise m.PackageNotFoundError(name)\n"
        "m.version = gone\n"
        "try: import kept.integrations.transformers\n"
        "except ImportError as error: print(error)"
    )
    code = code.replace(";def gone", "\ndef gone")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'kept-llm[transformers]'" in done.stdout


def test_old_transformers_are_refused(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: "4.56.2")
    with pytest.raises(ImportError, match=r"4\.57 or newer, and 4\.56\.2"):
        versions.check_installed()


def test_windows_are_read_from_the_config():
    assert ModelLayers.read(decoder("mistral").config).windows == (WINDOW,) * 3
    assert ModelLayers.read(decoder("gemma2").config).windows == (WINDOW, None, WINDOW)
    assert ModelLayers.read(decoder("gemma3_text").config).windows == (WINDOW, None, WINDOW)
    assert ModelLayers.read(decoder("gpt2").config).windows == (None,) * 3


def test_layers_that_no_cache_of_kept_holds_are_named():
    config = AutoConfig.for_model("qwen3_next", num_hidden_layers=4)
    with pytest.raises(OptionError, match="'linear_attention'"):
        KeptCache.from_config(config)


def test_chunked_attention_is_stored_as_a_window():
    config = AutoConfig.for_model(
        "llama4_text", **{**SIZES, "attention_chunk_size": 8, "num_hidden_layers": 4}
    )
    windows = ModelLayers.read(config).windows
    assert set(windows) == {8, None}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layout": "paged"}, "dynamic, static, sliding"),
        ({"layout": "static"}, "max_cache_len"),
        ({"kv_dtype": "int3"}, "int8"),
        ({"max_cache_len": 9}, "static"),
        ({"layout": "sliding"}, "sliding_window"),
    ],
)
def test_options_are_refused_when_it_is_made(options, said):
    with pytest.raises(OptionError, match=said):
        KeptCache.from_config(decoder("llama").config, **options)


def test_keys_of_another_shape_or_device_are_refused():
    cache = KeptCache.from_config(decoder("llama").config)
    new = torch.zeros(1, 2, 1, 12)
    for layer in range(3):
        cache.update(new, new, layer)
    with pytest.raises(CacheError, match="do not fit layer 0"):
        cache.update(new.repeat(2, 1, 1, 1), new.repeat(2, 1, 1, 1), 0)
    with pytest.raises(CacheError, match="one device"):
        cache.update(new.to("meta"), new.to("meta"), 0)
    cache.reset()
    with pytest.raises(CacheError, match="StaticCache"):
        cache.early_initialization(1, 2, 12, torch.float32, torch.device("cpu"))


def test_tuples_make_no_cache():
    with pytest.raises(OptionError, match="from_config"):
        KeptCache.from_legacy_cache(())


def test_layers_say_what_they_hold():
    cache = KeptCache.from_config(decoder("llama").config, kv_dtype="int8")
    assert {(x.dtype, x.device, x.max_batch_size) for x in cache.layers} == {(None, None, None)}
    new = torch.zeros(3, 2, 1, 12, dtype=torch.bfloat16)
    for layer in range(3):
        cache.update(new, new, layer)
    for layer in cache.layers:
        assert (layer.dtype, layer.device) == (torch.bfloat16, torch.device("cpu"))
        assert layer.max_batch_size == 3
    if not IS_5:
        assert cache.max_batch_size == 3


def test_a_model_that_computes_its_own_attention_is_refused_as_it_is_built():
    sizes = {"vocab_size": 99, "hidden_size": 64, "n_layer": 2, "n_head": 4}
    build = transformers.AutoModelForCausalLM.from_config
    with pytest.raises(OptionError, match="BloomForCausalLM does not attend through"):
        build(transformers.BloomConfig(**sizes), attn_implementation="kept")
    model = build(transformers.BloomConfig(**sizes))
    model.set_attn_implementation("kept")  # which transformers answers with a warning
    assert model.config._attn_implementation != "kept"


def test_an_attention_may_be_changed_to_kepts():
    model = decoder("qwen3", "sdpa", rms_norm_eps=3e-6)
    model.set_attn_implementation("kept")
    assert model.config._attn_implementation == "kept"
    model.set_attn_implementation("sdpa")


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("gpt_oss", "s_aux change a score of GptOssAttention"),
        ("llama4_text", "Llama4ForCausalLM attends in chunks"),
        *[("mimo_v2_flash", "s_aux change a score of MiMoV2FlashAttention")] * IS_5,
    ],
)
def test_scores_that_it_does_not_compute_are_refused_as_a_model_is_built(family, said):
    with pytest.raises(OptionError, match=said):
        build(family, "kept")
    model = build(family, "eager")
    with pytest.raises(OptionError, match=said):
        model.set_attn_implementation("kept")
    assert model.config._attn_implementation == "eager"


@pytest.mark.skipif(not IS_5, reason="no such model in transformers 4.57")
def test_sinks_that_no_layer_has_are_not_refused():
    config = tiny("mimo_v2_flash")
    config.layer_types = ["full_attention"] * config.num_hidden_layers
    build_model = transformers.AutoModelForCausalLM.from_config
    model = build_model(config, attn_implementation="kept").eval()
    cache = KeptCache.from_config(model.config)
    with torch.no_grad():
        model(torch.tensor([[3, 4, 5]]), past_key_values=cache)
    assert cache.get_seq_length() == 3


def test_a_part_with_another_attention_is_no_reason_to_refuse():
    class Whole(transformers.PreTrainedModel):
        config_class = transformers.LlamaConfig
        _supports_attention_backend = True

        def __init__(self, config, part):
            super().__init__(config)
            self.part = part
            self.post_init()

    config = transformers.LlamaConfig(attn_implementation="kept")
    whole = Whole(config, build("gpt_oss", "eager"))
    assert whole.config._attn_implementation == "kept"
    assert whole.part.config._attn_implementation == "eager"
