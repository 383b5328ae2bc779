"""Checkpoints that others have quantized: the numbers that their formats define.

What packs them here is written by the formats' descriptions, and shares nothing with what reads
them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from thinning import in_part
from torch import Tensor

from kept import LLM, CheckpointError, UnsupportedFormatError, WeightsError, machine
from kept import quantize_checkpoint as quantize_to
from kept.models import open_checkpoint
from kept.models.loading import fetch_matrices, open_weights
from kept.ops.backend import say_once
from kept.ops.quantize import dequantize

from .generation import prompts
from .test_files import rewrite_config
from .zoo import make_hf

Tensors = dict[str, Tensor]
Packed = tuple[Tensors, Tensor]  # tensors by the end of their names, and the matrix they stand for
packs = pytest.mark.skipif(not machine.NATIVE_AVAILABLE, reason="the native module packs")
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "head_dim": 16}


def words(codes: np.ndarray, bits: int) -> Tensor:
    """Codes of the last dimension in words, the first in the lowest bits."""
    each = 32 // bits
    found = np.zeros((*codes.shape[:-1], codes.shape[-1] // each), np.uint32)
    for i in range(each):
        found |= codes[..., i::each].astype(np.uint32) << np.uint32(bits * i)
    return torch.from_numpy(found.view(np.int32))


def draw(shape: tuple[int, ...], top: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, top, shape)


def scales_of(shape: tuple[int, ...], seed: int) -> np.ndarray:
    found = 0.01 + 0.02 * np.random.default_rng(seed + 1).random(shape)
    return found.astype(np.float16)


def gptq(
    shape: tuple[int, int],
    seed: int,
    *,
    bits: int = 4,
    order: bool = False,
    less: int = 1,
    size: int = 32,
    listed: bool = True,
) -> Packed:
    """less: what is taken from zeros as they are stored. listed: with the groups of inputs."""
    num_out, num_in = shape
    groups = -(-num_in // size)
    codes, zeros = draw((num_in, num_out), 1 << bits, seed), draw((groups, num_out), 1 << bits, 7)
    zeros[:, ::5] = 0
    scales = scales_of((groups, num_out), seed)
    of = np.arange(num_in) // size
    if order:
        of = np.random.default_rng(seed).permutation(of)
    tensors = {
        "qweight": words(codes.T, bits).T.contiguous(),
        # From a word as a whole, so that a zero of 0 borrows from the next.
        "qzeros": words(zeros, bits) - words(np.full((1, 32 // bits), less), bits),
        "scales": torch.from_numpy(scales),
    }
    if listed:
        tensors["g_idx"] = torch.from_numpy(of.astype(np.int32))
    matrix = (codes - zeros[of]) * scales[of].astype(np.float32)
    return tensors, torch.from_numpy(matrix.T.astype(np.float32))


def awq(shape: tuple[int, int], seed: int) -> Packed:
    (num_out, num_in), size = shape, 32
    codes, zeros = draw((num_in, num_out), 16, seed), draw((num_in // size, num_out), 16, 7)
    scales = scales_of((num_in // size, num_out), seed)
    order = [0, 2, 4, 6, 1, 3, 5, 7]  # which output the bits hold, from the lowest on

    def shuffled(x: np.ndarray) -> Tensor:
        return words(x.reshape(len(x), -1, 8)[..., order].reshape(len(x), -1), 4)

    tensors = {
        "qweight": shuffled(codes),
        "qzeros": shuffled(zeros),
        "scales": torch.from_numpy(scales),
    }
    of = np.arange(num_in) // size
    matrix = (codes - zeros[of]) * scales[of].astype(np.float32)
    return tensors, torch.from_numpy(matrix.T.astype(np.float32))


def packed(shape: tuple[int, int], seed: int, *, bits: int = 4, zero: bool = False) -> Packed:
    (num_out, num_in), size = shape, 32
    codes, zeros = draw(shape, 1 << bits, seed), draw((num_out, num_in // size), 1 << bits, 7)
    scales = scales_of((num_out, num_in // size), seed)
    tensors = {
        "weight_packed": words(codes, bits),
        "weight_scale": torch.from_numpy(scales).bfloat16(),
        "weight_shape": torch.tensor(shape),
    }
    if zero:
        tensors["weight_zero_point"] = words(zeros.T, bits).T.contiguous()
    else:
        zeros = np.full_like(zeros, 1 << (bits - 1))
    each = tensors["weight_scale"].float().numpy().repeat(size, 1)
    return tensors, torch.from_numpy(((codes - zeros.repeat(size, 1)) * each).astype(np.float32))


def int8(shape: tuple[int, int], seed: int) -> Packed:
    codes = torch.from_numpy(draw(shape, 201, seed) - 100).to(torch.int8)
    scales = torch.from_numpy(scales_of((shape[0], 1), seed)).float() / 10
    extra = {"input_scale": torch.ones(1)}
    return {"weight": codes, "weight_scale": scales, **extra}, codes.float() * scales


def float8(
    shape: tuple[int, int],
    seed: int,
    *,
    block: int | None = None,
    scale: str = "weight_scale_inv",
) -> Packed:
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 20
    codes = numbers.to(torch.float8_e4m3fn)
    if block is None:
        scales = torch.from_numpy(scales_of((shape[0], 1), seed)).float() / 10
        return {"weight": codes, "weight_scale": scales}, codes.float() * scales
    blocks = tuple(-(-size // block) for size in shape)
    scales = torch.from_numpy(scales_of(blocks, seed)).float() / 10
    each = torch.from_numpy(scales.numpy().repeat(block, 0).repeat(block, 1))
    each = each[: shape[0], : shape[1]]
    return {"weight": codes, scale: scales}, codes.float() * each


def nf4(shape: tuple[int, int], seed: int, *, nested: bool = False) -> Packed:
    count, size = shape[0] * shape[1], 64
    codes = draw((count,), 16, seed)
    table = torch.linspace(-1, 1, 16) ** 3
    absmax = torch.from_numpy(scales_of((-(-count // size),), seed)).float() * 10
    state: dict[str, Any] = {"quant_type": "nf4", "blocksize": size, "shape": list(shape)}
    tensors = {
        "weight": torch.from_numpy((codes[::2] << 4 | codes[1::2]).astype(np.uint8))[:, None],
        "weight.quant_map": table,
    }
    if nested:
        outer, offset = torch.rand(-(-len(absmax) // 256)), 0.25
        inner = torch.from_numpy(draw((len(absmax),), 256, seed).astype(np.uint8))
        map = torch.linspace(-1, 1, 256)
        state |= {"nested_blocksize": 256, "nested_offset": offset}
        tensors |= {"weight.nested_absmax": outer, "weight.nested_quant_map": map}
        tensors["weight.absmax"] = inner
        absmax = map[inner.int()] * outer.repeat_interleave(256)[: len(absmax)] + offset
    else:
        tensors["weight.absmax"] = absmax
    described = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    tensors["weight.quant_state.bitsandbytes__nf4"] = described
    numbers = table[torch.from_numpy(codes)] * absmax.repeat_interleave(size)[:count]
    return tensors, numbers.view(shape)


def rows8(shape: tuple[int, int], seed: int) -> Packed:
    codes = torch.from_numpy(draw(shape, 255, seed) - 127).to(torch.int8)
    scales = torch.from_numpy(scales_of((shape[0],), seed)).float() * 20
    format = torch.tensor(0, dtype=torch.uint8)
    tensors = {"weight": codes, "SCB": scales, "weight_format": format}
    return tensors, codes.float() * (scales / 127)[:, None]


def mlx(shape: tuple[int, int], seed: int, *, bits: int = 4) -> Packed:
    (num_out, num_in), size = shape, 32
    codes = draw(shape, 1 << bits, seed)
    scales, biases = (scales_of((num_out, num_in // size), seed + i) for i in (0, 5))
    tensors = {
        "weight": words(codes, bits).view(torch.uint32),
        "scales": torch.from_numpy(scales),
        "biases": torch.from_numpy(-biases),
    }
    each = scales.astype(np.float32).repeat(size, 1)
    found = codes * each - biases.astype(np.float32).repeat(size, 1)
    return tensors, torch.from_numpy(found.astype(np.float32))


def group(bits: int, format: str, **more: Any) -> dict[str, Any]:
    weights = {"num_bits": bits, "group_size": 32, **more}
    return {
        "quant_method": "compressed-tensors",
        "format": format,
        "config_groups": {"group_0": {"weights": weights, "targets": ["Linear"]}},
    }


METHOD, MLX = "quantization_config", "quantization"
FORMATS: Mapping[str, tuple[Callable[..., Packed], dict[str, Any], str, Any]] = {
    "gptq": (gptq, {}, METHOD, {"quant_method": "gptq", "bits": 4, "group_size": 32}),
    "gptq order": (gptq, {"order": True}, METHOD, {"quant_method": "gptq", "bits": 4}),
    "gptq 8": (gptq, {"bits": 8}, METHOD, {"quant_method": "gptq", "bits": 8}),
    "gptq 2": (gptq, {"bits": 2}, METHOD, {"quant_method": "gptq", "bits": 2}),
    "gptq v2": (
        gptq,
        {"less": 0},
        METHOD,
        {"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq_v2"},
    ),
    "gptq uneven": (
        gptq,
        {"size": 40, "listed": False},
        METHOD,
        {"quant_method": "gptq", "bits": 4, "group_size": 40},
    ),
    "gptq whole": (
        gptq,
        {"size": 96, "listed": False},
        METHOD,
        {"quant_method": "gptq", "bits": 4, "group_size": -1},
    ),
    "awq": (awq, {}, METHOD, {"quant_method": "awq", "bits": 4, "version": "gemm"}),
    "packed": (packed, {}, METHOD, group(4, "pack-quantized")),
    "packed zero": (packed, {"zero": True}, METHOD, group(4, "pack-quantized")),
    "packed 8": (packed, {"bits": 8}, METHOD, group(8, "pack-quantized")),
    "int8": (int8, {}, METHOD, group(8, "int-quantized")),
    "float8": (float8, {}, METHOD, group(8, "float-quantized")),
    "float8 blocks": (
        float8,
        {"block": 40, "scale": "weight_scale"},
        METHOD,
        group(8, "float-quantized", strategy="block", block_structure=[40, 40]),
    ),
    "fbgemm": (float8, {}, METHOD, {"quant_method": "fbgemm_fp8"}),
    "fp8": (
        float8,
        {"block": 32},
        METHOD,
        {"quant_method": "fp8", "weight_block_size": [32, 32]},
    ),
    "nf4": (nf4, {}, METHOD, {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    "nf4 nested": (nf4, {"nested": True}, METHOD, {"quant_method": "bitsandbytes"}),
    "rows8": (rows8, {}, METHOD, {"quant_method": "bitsandbytes", "load_in_8bit": True}),
    "mlx": (mlx, {}, MLX, {"bits": 4, "group_size": 32}),
    "mlx 8": (mlx, {"bits": 8}, MLX, {"bits": 8, "group_size": 32}),
}


def make(name: str, folder: Path) -> tuple[Path, Path]:
    """A folder in a format, and one of the numbers that it stands for."""
    pack, options, entry, config = FORMATS[name]
    make_hf("qwen2", **SIZES).save_pretrained(folder / "plain")
    plain = load_file(folder / "plain" / "model.safetensors")
    coded: Tensors = {}
    for seed, (tensor, numbers) in enumerate(sorted(plain.items())):
        base, _, end = tensor.rpartition(".")
        if end != "weight" or not base.endswith(MATRICES):
            coded[tensor] = numbers.clone()
            continue
        parts, matrix = pack((numbers.shape[0], numbers.shape[1]), seed, **options)
        plain[tensor] = matrix.contiguous()
        coded |= {f"{base}.{part}": x.contiguous() for part, x in parts.items()}
    save_file(plain, folder / "plain" / "model.safetensors")
    (folder / "coded").mkdir()
    save_file(coded, folder / "coded" / "model.safetensors")
    (folder / "coded" / "config.json").write_text(
        (folder / "plain" / "config.json").read_text().replace("float32", "float16")
    )
    rewrite_config(folder / "coded", **{entry: config})
    return folder / "coded", folder / "plain"


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


def change(name: str, tmp_path: Path, edit: Callable[[Tensors], None]) -> Path:
    coded, _ = make(name, tmp_path)
    tensors = load_file(coded / "model.safetensors")
    edit(tensors)
    save_file(tensors, coded / "model.safetensors")
    return coded


UP = "model.layers.1.mlp.up_proj"


def replaced(part: str, by: Callable[[Tensor], Tensor]) -> Callable[[Tensors], None]:
    def edit(tensors: Tensors) -> None:
        tensors[f"{UP}.{part}"] = by(tensors[f"{UP}.{part}"])

    return edit


def beside(tensors: Tensors) -> None:
    tensors[f"{UP}.weight"] = torch.zeros(96, 64)


def without(part: str) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.__delitem__(f"{UP}.{part}")


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("gptq", without("scales"), "lack .*up_proj.scales"),
        ("gptq", replaced("qzeros", lambda x: x[:1]), r"qzeros' is int32 \(1, 12\) and should be"),
        ("gptq", replaced("qweight", lambda x: x.flatten()), "no matrix of codes"),
        ("gptq", replaced("g_idx", lambda x: x + 1), "g_idx names groups beyond the 2"),
        ("gptq", replaced("g_idx", lambda x: x - 1), "g_idx names groups beyond the 2"),
        ("gptq uneven", replaced("scales", lambda x: x[:1]), r"is int32 \(2, 12\) and should be"),
        ("awq", replaced("scales", lambda x: x.int()), "scales' is int32"),
        ("awq", replaced("scales", lambda x: x[:, :3].contiguous()), r"\(2, 3\) and should be"),
        ("packed", without("weight_scale"), "has no scales beside it"),
        ("packed", replaced("weight_shape", lambda x: x + 1), r"weight_shape says \[97, 65\]"),
        ("int8", replaced("weight_scale", lambda x: x[:5]), "weight_scale' is"),
        ("float8", without("weight_scale"), "has no scale beside it"),
        ("fp8", replaced("weight_scale_inv", lambda x: x[:1]), "is no scale of weights"),
        ("nf4", replaced("weight.absmax", lambda x: x[:-1]), "absmax' is float32"),
        ("nf4", replaced("weight", lambda x: x[:-1]), r"up_proj.weight' is uint8 \(3071, 1\)"),
        ("nf4", without("weight.quant_map"), "lack .*quant_map"),
        (
            "nf4",
            replaced("weight.quant_state.bitsandbytes__nf4", lambda x: x[:-1]),
            "is not JSON",
        ),
        (
            "nf4",
            replaced("weight.quant_state.bitsandbytes__nf4", lambda x: x[None]),
            "described by a row of up to 65,536 bytes",
        ),
        ("gptq", beside, r"up_proj.weight' is stored as numbers and as codes \(.*qweight"),
        ("rows8", replaced("SCB", lambda x: x[:-1]), "up_proj.weight' is int8"),
        ("rows8", replaced("weight_format", lambda x: x + 2), "weight_format is 2, an order"),
        ("rows8", replaced("weight_format", lambda x: x.new_zeros(3)), "not one number"),
        ("mlx", without("biases"), "lack .*biases"),
        (
            "mlx",
            replaced("weight", lambda x: x.view(torch.int32)[:, :3].contiguous()),
            r"\(96, 3\)",
        ),
    ],
)
def test_parts_that_do_not_go_together_are_named(
    name: str, edit: Callable[[Tensors], None], message: str, tmp_path: Path
) -> None:
    coded = change(name, tmp_path, edit)
    with pytest.raises((WeightsError, UnsupportedFormatError), match=message):
        LLM(coded)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gptq", {"bits": 3}, "bits = 3, and kept reads 2, 4, 8"),
        ("gptq uneven", {"group_size": 128}, "has 3 groups, and .*group_size makes 1 of 96"),
        ("gptq", {"checkpoint_format": "marlin"}, "checkpoint_format = 'marlin'"),
        ("awq", {"version": "gemv"}, "version = 'gemv'"),
        ("packed", {"format": "nvfp4-pack-quantized"}, "format = 'nvfp4-pack-quantized'"),
        ("packed", {"config_groups": {"a": {"weights": {"num_bits": 2}}}}, r"groups of \[2\] bits"),
        (
            "float8 blocks",
            {"config_groups": {"a": {"weights": {"block_structure": [32]}}}},
            r"block_structure = \['\(32,\)'\]",
        ),
        ("fp8", {"weight_block_size": [32]}, r"weight_block_size = \[32\]"),
        ("mlx", {"mode": "mxfp4"}, "mode = 'mxfp4'"),
        ("gptq", {"quant_method": "aqlm"}, "quant_method 'aqlm'.*reads awq, bitsandbytes"),
    ],
)
def test_what_kept_does_not_read_is_named(
    name: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    coded, _ = make(name, tmp_path)
    _, _, entry, config = FORMATS[name]
    rewrite_config(coded, **{entry: {**config, **changes}})
    with pytest.raises(CheckpointError, match=message):
        LLM(coded)
