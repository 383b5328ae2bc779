"""Checkpoints in the formats of others, and the numbers that they stand for.

What packs them is written by the formats' descriptions, and shares nothing with what reads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .test_files import rewrite_config
from .zoo import make_hf

Tensors = dict[str, Tensor]
Packed = tuple[Tensors, Tensor]  # tensors by the end of their names, and the matrix they stand for
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
