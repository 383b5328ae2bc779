"""GPTQ (Frantar et al. 2022) and AWQ (Lin et al. 2023): codes in words of 32 bits, a scale and a
zero for each output and group of inputs.

    GPTQ  qweight (in * bits / 32, out)  qzeros (groups, out * bits / 32), one less than the zeros
    AWQ   qweight (in, out / 8)          qzeros (groups, out / 8), eight codes of a word shuffled
    both  scales (groups, out); w[o, i] = scales[g, o] * (code[i, o] - zero[g, o])

The one that GPTQ takes from every zero of a word is taken from the word as a whole, modulo 2^32, so
that a zero of 0 borrows from the next (GPTQModel, `convert_gptq_v1_to_v2_format_module`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kept.errors import UnsupportedFormatError, WeightsError
from kept.models.fields import Fields
from kept.models.foreign_codes import WORD, Coded, Parts, check_parts, unpack
from kept.models.safetensors_file import TensorInfo

_FLOATS = (torch.float16, torch.bfloat16, torch.float32)
_INT32 = (torch.int32,)
_BITS = (2, 4, 8)
# Where AWQ's words hold the eight outputs, from their lowest bits on.
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)


def find_gptq(tensors: Mapping[str, TensorInfo], config: Fields) -> dict[str, Coded]:
    """The matrices of a GPTQ checkpoint; config: its quantization_config.

    Raises UnsupportedFormatError for a layout kept does not read, WeightsError for parts that do
    not go together.
    """
    bits = _bits(config, _BITS)
    layout = config.choice("checkpoint_format", "gptq", ("gptq", "gptq_v2"))
    found = {}
    for base in _bases(tensors):
        rows, num_out = _matrix(tensors, f"{base}.qweight")
        num_in = rows * WORD // bits
        parts = {role: f"{base}.{role}" for role in ("qweight", "qzeros", "scales")}
        groups = _groups(tensors, base)
        wanted: dict[str, Any] = {
            "qweight": (_INT32, (rows, num_out)),
            "qzeros": (_INT32, (groups, num_out * bits // WORD)),
            "scales": (_FLOATS, (groups, num_out)),
        }
        if f"{base}.g_idx" in tensors:
            parts["g_idx"] = f"{base}.g_idx"
            wanted["g_idx"] = (_INT32, (num_in,))
        check_parts(tensors, parts, wanted)
        size = _group_size(base, config, num_in, groups) if "g_idx" not in parts else num_in
        numbers = partial(_gptq, base, bits, 1 if layout == "gptq" else 0, size)
        found[f"{base}.weight"] = Coded((num_out, num_in), parts, numbers)
    return found


def find_awq(tensors: Mapping[str, TensorInfo], config: Fields) -> dict[str, Coded]:
    """The same of an AWQ checkpoint."""
    bits = _bits(config, (4,))
    config.choice("version", "gemm", ("gemm", "GEMM"))
    found = {}
    for base in _bases(tensors):
        num_in, words = _matrix(tensors, f"{base}.qweight")
        num_out, groups = words * WORD // bits, _groups(tensors, base)
        parts = {role: f"{base}.{role}" for role in ("qweight", "qzeros", "scales")}
        wanted = {
            "qweight": (_INT32, (num_in, words)),
            "qzeros": (_INT32, (groups, words)),
            "scales": (_FLOATS, (groups, num_out)),
        }
        check_parts(tensors, parts, wanted)
        if num_in % groups:
            raise WeightsError(f"{base}: {num_in:,} inputs are not {groups:,} groups of one size")
        found[f"{base}.weight"] = Coded((num_out, num_in), parts, partial(_awq, bits))
    return found


def _bits(config: Fields, known: tuple[int, ...]) -> int:
    bits = config.integer("bits" if config.has("bits") else "w_bit", 4)
    if bits not in known:
        raise UnsupportedFormatError(
            f"quantization_config has bits = {bits}, and kept reads {', '.join(map(str, known))}; "
            "load another checkpoint of the model"
        )
    return bits


def _bases(tensors: Mapping[str, TensorInfo]) -> list[str]:
    end = ".qweight"
    return [name.removesuffix(end) for name in tensors if name.endswith(end)]


def _matrix(tensors: Mapping[str, TensorInfo], name: str) -> tuple[int, int]:
    shape = tensors[name].shape
    if len(shape) != 2 or 0 in shape:
        raise WeightsError(f"{tensors[name].file}: {name!r} is {shape}, and no matrix of codes")
    return shape[0], shape[1]


def _groups(tensors: Mapping[str, TensorInfo], base: str) -> int:
    scales = tensors.get(f"{base}.scales")
    return scales.shape[0] if scales is not None and len(scales.shape) == 2 else 1


def _group_size(base: str, config: Fields, num_in: int, groups: int) -> int:
    """How many inputs a group has where no tensor says which are of it."""
    size = config.integer("group_size", -1, minimum=-1)
    size = size if size > 0 else num_in
    if -(-num_in // size) != groups:
        raise WeightsError(
            f"{base}.scales has {groups:,} groups, and quantization_config's group_size makes "
            f"{-(-num_in // size):,} of {num_in:,} inputs; use the config.json it was saved with"
        )
    return size


def _gptq(base: str, bits: int, less: int, size: int, parts: Parts) -> Tensor:
    codes = unpack(parts["qweight"].T.contiguous(), bits)  # (out, in)
    zeros = unpack(_plus(parts["qzeros"], less, bits), bits).T  # (out, groups)
    scales = parts["scales"].float().T
    num_in, groups = codes.shape[1], scales.shape[1]
    order = parts.get("g_idx")
    if order is None:
        order = torch.arange(num_in, dtype=torch.int32, device="cpu") // size
    if int(order.min()) < 0 or int(order.max()) >= groups:
        raise WeightsError(f"{base}.g_idx names groups beyond the {groups:,} there are")
    order = order.long()
    return (codes - zeros[:, order]).float() * scales[:, order]


def _plus(words: Tensor, number: int, bits: int) -> Tensor:
    """Words with so much more in each of their codes, carried from one to the next."""
    each = sum(number << place for place in range(0, WORD, bits))
    wide = (words.long() + each) & 0xFFFFFFFF
    return torch.where(wide < 1 << (WORD - 1), wide, wide - (1 << WORD)).int()


def _awq(bits: int, parts: Parts) -> Tensor:
    codes, zeros = (_unshuffled(parts[name], bits).T for name in ("qweight", "qzeros"))
    scales = parts["scales"].float().T  # (out, groups)
    num_in, groups = codes.shape[1], scales.shape[1]
    each = (codes.view(-1, groups, num_in // groups) - zeros[..., None]).float()
    return (each * scales[..., None]).view(-1, num_in)


def _unshuffled(words: Tensor, bits: int) -> Tensor:  # (rows, n) -> (rows, 8 n)
    codes = unpack(words, bits).view(len(words), -1, WORD // bits)
    return codes[..., list(_AWQ_ORDER)].flatten(1)
