"""Checkpoints of others whose parts do not go together, or that kept does not read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kept import LLM, CheckpointError, UnsupportedFormatError, WeightsError

from .foreign_formats import FORMATS, Tensors, make
from .test_files import rewrite_config


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
