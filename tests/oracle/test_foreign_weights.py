"""Checkpoints that others have quantized: the numbers that their formats define."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from thinning import in_part
from torch import Tensor

from kept import LLM, machine
from kept import quantize_checkpoint as quantize_to
from kept.models import open_checkpoint
from kept.models.loading import fetch_matrices, open_weights
from kept.ops.backend import say_once
from kept.ops.quantize import dequantize

from .foreign_formats import FORMATS, METHOD, Tensors, group, int8, make
from .generation import prompts
from .test_files import rewrite_config
from .zoo import make_hf

packs = pytest.mark.skipif(not machine.NATIVE_AVAILABLE, reason="the native module packs")


@torch.no_grad()
def logits(llm: LLM) -> Tensor:
    return llm.model(torch.tensor(prompts(24))).logits


@pytest.mark.parametrize("name", FORMATS)
def test_it_is_the_numbers_it_stands_for(name: str, tmp_path: Path) -> None:
    coded, plain = make(name, tmp_path)
    read, written = open_checkpoint(coded), open_checkpoint(plain)
    assert read.tensors.keys() == written.tensors.keys()
    for tensor in written.tensors:
        found, expected = read.read(tensor), written.read(tensor)
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    if not in_part(list(FORMATS).index(name), out_of=4):
        return
    ours, theirs = logits(LLM(coded, dtype="float32")), logits(LLM(plain, dtype="float32"))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_codes_that_are_stored_head_by_head(tmp_path: Path) -> None:
    """They are read as they are, in the order that their numbers would have."""
    hf = make_hf("gpt_neox", hidden_size=64, num_attention_heads=4)
    hf.save_pretrained(tmp_path)
    tensors: Tensors = {}
    for seed, (tensor, numbers) in enumerate(load_file(tmp_path / "model.safetensors").items()):
        base, _, end = tensor.rpartition(".")
        if end != "weight" or not base.endswith("query_key_value"):
            tensors[tensor] = numbers
            continue
        parts, _ = int8((numbers.shape[0], numbers.shape[1]), seed)
        tensors |= {f"{base}.{part}": x for part, x in parts.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    rewrite_config(tmp_path, **{METHOD: group(8, "int-quantized")})
    checkpoint = open_checkpoint(tmp_path)
    model, weights = open_weights(checkpoint, dtype="float32")
    fetch_matrices(model, weights)
    weight = model.blocks[1].attention.qkv.weight
    codes = weights.fetch_codes(weight)
    assert codes is not None
    torch.testing.assert_close(dequantize(codes).float(), weights.fetch(weight))


@pytest.mark.parametrize("name", ["gptq", "int8", "fp8", "mlx"])
def test_it_becomes_int8_where_nobody_says_what(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, backend: str
) -> None:
    coded, _ = make(name, tmp_path)
    say_once.cache_clear()
    with caplog.at_level(logging.WARNING, "kept"):
        llm = LLM(coded)
    lines = [record.message for record in caplog.records]
    assert len(lines) == 1, lines
    assert "bits a weight), which becomes int8" in lines[0]
    assert (llm.model.native is None) == (backend == "reference")
    assert torch.equal(logits(llm), logits(LLM(coded, quantize="int8")))


@packs
@pytest.mark.parametrize("name", ["int8", "rows8"])
def test_codes_that_are_kept_s_own_stay_as_they_are(name: str, tmp_path: Path) -> None:
    coded, _ = make(name, tmp_path)
    found = open_checkpoint(quantize_to(coded, tmp_path / "out", "int8"))
    stored = load_file(coded / "model.safetensors")
    layer = "model.layers.0.self_attn"
    wanted = torch.cat([stored[f"{layer}.{part}_proj.weight"] for part in "qkv"])
    data = found.read("blocks.0.attention.qkv.data").view(torch.int8)
    assert sorted(data.tolist()) == sorted(wanted.flatten().tolist())
    ends = ("weight_scale", lambda x: x) if name == "int8" else ("SCB", lambda x: x / 127)
    scales = [ends[1](stored[f"{layer}.{part}_proj.{ends[0]}"]).flatten() for part in "qkv"]
    assert torch.equal(found.read("blocks.0.attention.qkv.channel_scales"), torch.cat(scales))
    assert "quantization_config" not in found.config


def test_what_has_no_code_in_int8_is_rounded_anew(tmp_path: Path) -> None:
    coded, plain = make("int8", tmp_path)
    path = coded / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = -128
    save_file(tensors, path)
    checkpoint = open_checkpoint(coded)
    assert checkpoint.codes("model.layers.0.mlp.up_proj.weight") is None
    assert checkpoint.codes("model.layers.0.mlp.down_proj.weight") is not None
    assert logits(LLM(coded)).isfinite().all()
    assert plain.is_dir()
