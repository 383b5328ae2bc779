"""In which format a model's matrices are packed for the native kernels."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kept.errors import OptionError
from kept.models.native import Progress, matrices
from kept.ops import PackedMatrix, pack_int4, pack_int8, pack_matrix, runs_natively
from kept.ops.quantize import QUANTIZED_FORMATS, QuantizedMatrix, dequantize, quantize

if TYPE_CHECKING:
    from kept.models.causal_lm import CausalLM


def check_format(format: str | None) -> None:
    """Raise OptionError for a `quantize=` that is neither None nor a format there is."""
    if format is not None and format not in QUANTIZED_FORMATS:
        raise OptionError(
            f"quantize={format!r} is not one of {', '.join(QUANTIZED_FORMATS)}; or leave it out"
        )


def prepare(model: CausalLM, format: str | None = None, progress: Progress | None = None) -> None:
    """Make a loaded model ready to run: packed for the native kernels where they can run it.

    format: quantize its matrices to "int8" or "int4". Where the torch reference runs the model,
    each is replaced by the numbers its codes stand for, which saves no memory. progress: called
    with the numbers packed so far and their total. Mutates the model. Raises OptionError for an
    unknown format, WeightsError for weights that cannot be quantized.
    """
    check_format(format)
    widest = max(shape.head_dim for shape in model.kv_shapes)
    if runs_natively(model.dtype, model.device, widest, model.not_native):
        if format is None:
            name = "bf16" if model.dtype == torch.bfloat16 else "fp32"
            model.pack(partial(_pack_floats, name), progress)
        else:
            # It tells how far it is by itself, also within a matrix.
            model.pack(Quantizer(model, format, progress), None, torch.bfloat16)
    elif format is not None:
        _round_matrices(model, format, progress)


def _pack_floats(format: str, weight: Tensor, gated: bool, bias: Tensor | None) -> PackedMatrix:
    return pack_matrix(weight, format, gated=gated, bias=bias)


class Quantizer:
    """Quantizes a model's matrices, one after the other, and tells how far it is."""

    def __init__(self, model: CausalLM, format: str, progress: Progress | None = None) -> None:
        """progress: called with the numbers quantized so far and their total."""
        self._format, self._progress = format, progress
        self._done = 0
        self._total = sum(modules[0].weight.numel() for modules in matrices(model))

    def __call__(self, weight: Tensor, gated: bool, bias: Tensor | None) -> PackedMatrix:
        """Quantize and pack the next matrix."""
        found = self.round(weight)
        pack = pack_int8 if self._format == "int8" else pack_int4
        return pack(found.codes, found.scales, gated=gated, bias=bias)

    def round(self, weight: Tensor) -> QuantizedMatrix:
        """Quantize the next matrix (out, in)."""
        found = quantize(weight, self._format, self._tell)
        self._done += weight.numel()
        return found

    def _tell(self, within: int) -> None:
        if self._progress is not None:
            self._progress(self._done + within, self._total)


def _round_matrices(model: CausalLM, format: str, progress: Progress | None) -> None:
    quantizer = Quantizer(model, format, progress)
    for modules in matrices(model):
        old = modules[0].weight
        rounded = nn.Parameter(dequantize(quantizer.round(old)).to(old.dtype), old.requires_grad)
        for module in modules:
            holder: Any = module
            holder.weight = rounded
