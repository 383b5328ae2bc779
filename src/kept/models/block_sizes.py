"""What weights take that stay in the blocks they are stored in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from kept.models.causal_lm import CausalLM
from kept.models.experts import Experts
from kept.models.layers import Linear
from kept.ops.packed_layout import PackedShape


def bytes_saved_by_blocks(model: CausalLM, config: Mapping[str, Any], dtype: torch.dtype) -> int:
    """How many bytes less than numbers of `dtype` a checkpoint's weights take on the kernels.

    Experts in MXFP4 stay that where bfloat16 is asked for. The model may be on the meta device.
    """
    quantization = config.get("quantization_config")
    method = quantization.get("quant_method") if isinstance(quantization, Mapping) else None
    if method != "mxfp4" or dtype != torch.bfloat16:
        return 0
    layers = [module for module in model.modules() if isinstance(module, Experts)]
    matrices = [x for layer in layers for x in layer.experts.modules() if isinstance(x, Linear)]
    return sum(x.weight.numel() * dtype.itemsize - _in_blocks(x) for x in matrices)


def _in_blocks(matrix: Linear) -> int:
    # Laid out as int4, whose groups are its blocks.
    return PackedShape("int4", matrix.gated, *matrix.weight.shape).num_bytes()
