"""T5 checkpoints: how they are stored, what they run on, and what is refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

import kept
from kept import BackendError, CacheError, ContextLengthError, OptionError, make_cache
from kept.batch import pack
from kept.models import build_model, encoder_decoder
from kept.models.t5_config import read_mt5_config

from ..seq2seq import BASE, START, T5S, VOCAB, Pair, draw, prompts
from ..test_files import rewrite_config

CLOSE = {"rtol": 0.0, "atol": 1e-4}


def test_tables_under_every_name(made: Callable[[str], Pair], tmp_path: Path) -> None:
    """Older files name the table of tokens three times, and the head beside it."""
    pair = made("v1.0")
    for file in pair.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(pair.folder / "model.safetensors")
    table = weights.pop("shared.weight")
    names = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    for several in (names[:1], names):
        save_file(
            {**weights, **{n: table.clone() for n in several}}, tmp_path / "model.safetensors"
        )
        found = kept.LLM(tmp_path)
        assert found.model.num_parameters == pair.model.num_parameters
        out = found.generate(prompts()[:1], max_new_tokens=5)[0].token_ids
        assert out == pair.llm.generate(prompts()[:1], max_new_tokens=5)[0].token_ids


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_quantized_weights(
    made: Callable[[str], Pair], format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("kept._native")
    pair = made("v1.1")
    rounded = kept.LLM(pair.folder, quantize=format)
    stored = kept.LLM(kept.quantize_checkpoint(pair.folder, tmp_path / format, format))
    batch = pack([[START, 5, 6]], sources=[prompts()[0]])
    with torch.no_grad():
        found, again = rounded.model.run(batch), stored.model.run(batch)
        close = pair.model.run(batch)
        monkeypatch.setenv("KEPT_OPS", "reference")
        for source, quantize in ((pair.folder, format), (tmp_path / format, None)):
            plain = kept.LLM(source, quantize=quantize, dtype="float32").model.run(batch)
            assert (found - plain).abs().mean() < 0.05 * close.std()
    assert torch.equal(found, again)
    assert (found - close).abs().mean() < (0.1 if format == "int8" else 1.0) * close.std()


def test_the_kernels_say_why_not(
    made: Callable[[str], Pair], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:  # fmt: skip
    for file in made("v1.0").folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["relative_attention_max_distance"] = 100_000
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("KEPT_OPS", "auto")
    kept.ops.backend.__globals__["say_once"].cache_clear()
    with caplog.at_level(logging.WARNING, "kept"):
        for _ in range(2):
            kept.LLM(tmp_path)
    if kept.machine.NATIVE_AVAILABLE:
        [said] = caplog.messages
        assert said == (
            "using the torch reference: the native kernels take biases of distances up to 65,536, "
            "and this model's reach to 100,000"
        )
        monkeypatch.setenv("KEPT_OPS", "native")
        with pytest.raises(BackendError, match=r"KEPT_OPS=native, but.*reach to 100,000; use"):
            kept.LLM(tmp_path)


def test_what_is_refused(made: Callable[[str], Pair]) -> None:
    pair = made("v1.0")
    model, new = pair.model, draw(2, 1)
    held = model(draw(2, 4), decoder_input_ids=new).cache
    other = make_cache(model.kv_shapes[:2], num_slots=2)
    swapped = make_cache([replace(s, cross=False) for s in model.kv_shapes], num_slots=2)
    evicting = make_cache(model.kv_shapes, "evicting", num_slots=2, budget=9)
    for call, error, message in (
        (lambda: model(draw(2, 4)), OptionError, r"decoder_input_ids is missing.*start token 0"),
        (lambda: model(decoder_input_ids=new), CacheError, "slot 0 has no encoder input"),
        (lambda: model(decoder_input_ids=new, use_cache=False), OptionError, "without an encoder"),
        (lambda: model(draw(1, 4), decoder_input_ids=new), OptionError, "each sequence needs both"),
        (lambda: model(draw(2, 4), decoder_input_ids=new, cache=held), CacheError, "another input"),
        (
            lambda: model(draw(2, 4), decoder_input_ids=new, cache=other),
            CacheError,
            "of 2 layers, and this model has 2 layers and 2 cross layers; make it with.*kv_shapes",
        ),
        (
            lambda: model(draw(2, 4), decoder_input_ids=new, cache=swapped),
            CacheError,
            "3 heads of 12 numbers in layer 2, and this model has .* numbers of an encoder input",
        ),
        (
            lambda: model(draw(2, 4), decoder_input_ids=new, cache=evicting),
            OptionError,
            "how far apart tokens are, and an evicting cache closes the gaps",
        ),
        (
            lambda: pair.llm.generate([5], cache_implementation="evicting", kv_budget=9),
            OptionError,
            "'evicting' cannot serve this model: T5's scores depend on how far apart.*'sliding'",
        ),
        (lambda: model(None, new, new, cache=held), OptionError, "attention_mask is of input_ids"),
        (lambda: pair.llm.chat([{"role": "user", "content": "x"}]), OptionError, "encoder-decoder"),
        (lambda: kept.LLM(pair.folder, dtype="float16"), OptionError, r"65,504.*bfloat16"),
        (lambda: pair.llm.generate([[]]), OptionError, "the prompt is empty.*at least one token"),
        (lambda: pair.llm.generate([[5, VOCAB]]), OptionError, f"{VOCAB}"),
        (lambda: pair.llm.generate([[5, -1]]), OptionError, "-1"),
        (lambda: model(draw(2, 0), decoder_input_ids=new), OptionError, "input_ids"),
    ):
        with pytest.raises(error, match=message):
            call()
    assert held.lengths == (1, 1)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("pair", ["v1.0"], indirect=True)
def test_an_input_that_memory_cannot_read(
    backend: str, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEPT_OPS", backend)
    machine = replace(encoder_decoder.describe_machine(), total_memory=1 << 22)
    monkeypatch.setattr(encoder_decoder, "describe_machine", lambda: machine)
    message = "input of 3,000 tokens takes .*B while it is read.*cut it into parts.*on 512 tokens"
    with pytest.raises(ContextLengthError, match=message):
        kept.LLM(pair.folder).generate([[5] * 3000])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"feed_forward_proj": "gated-cosine"}, "feed_forward_proj = 'gated-cosine'.*gated-gelu"),
        ({"feed_forward_proj": 5}, "feed_forward_proj = 5"),
        ({"relative_attention_num_buckets": 3}, "at least 4"),
        ({"relative_attention_max_distance": 16}, "max_distance = 16, which must be more than"),
        ({"decoder_start_token_id": 99999}, "decoder_start_token_id = 99999"),
        ({"architectures": ["T5EncoderModel"]}, "T5EncoderModel.*T5ForConditionalGeneration"),
    ],
)
def test_configs_that_cannot_be_run(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(kept.CheckpointError, match=message):
        build_model({"model_type": "t5", **fields})


def test_a_tied_head_that_is_not_scaled(tmp_path: Path) -> None:
    """transformers 5 makes v1.1 with its head tied, where no checkpoint says otherwise."""
    hf = T5ForConditionalGeneration(T5Config(**{**BASE, **T5S["v1.1"]})).eval()
    assert hf.lm_head.weight is hf.shared.weight
    assert not hf.config.scale_decoder_outputs
    hf.save_pretrained(tmp_path)
    found = kept.LLM(tmp_path).model
    tokens = draw(2, 9), draw(2, 5, seed=4)
    expected = hf(input_ids=tokens[0], decoder_input_ids=tokens[1]).logits
    torch.testing.assert_close(
        found(tokens[0], decoder_input_ids=tokens[1]).logits, expected, **CLOSE
    )


@pytest.mark.parametrize("tied", [True, False])
def test_mt5(tied: bool, tmp_path: Path) -> None:
    hf = MT5ForConditionalGeneration(MT5Config(**BASE)).eval()
    if not tied:
        hf.lm_head.weight = torch.nn.Parameter(torch.randn_like(hf.lm_head.weight))
    hf.save_pretrained(tmp_path)
    tokens = draw(2, 9), draw(2, 5, seed=4)
    expected = hf(input_ids=tokens[0], decoder_input_ids=tokens[1]).logits
    rewrite_config(tmp_path, tie_word_embeddings=False)  # as published ones have it
    llm = kept.LLM(tmp_path)
    found = llm.model(tokens[0], decoder_input_ids=tokens[1]).logits
    torch.testing.assert_close(found, expected, **CLOSE)
    texts = hf.generate(tokens[0], do_sample=False, max_new_tokens=12, min_new_tokens=12)
    ours = llm.generate(tokens[0].tolist(), max_new_tokens=12, min_new_tokens=12)
    assert [list(x.token_ids) for x in ours] == texts[:, 1:].tolist()


def test_what_an_mt5_config_leaves_out() -> None:
    hf, found = MT5Config(), read_mt5_config({"model_type": "mt5"})
    assert found.vocab_size == hf.vocab_size
    assert (found.hidden_size, found.mlp_size) == (hf.d_model, hf.d_ff)
    assert found.num_encoder_layers == found.num_layers == hf.num_layers
    assert (found.num_heads, found.head_dim) == (hf.num_heads, hf.d_kv)
    assert found.gated
    assert found.activation == hf.dense_act_fn
    assert found.tied
    assert found.output_scale == 1.0
