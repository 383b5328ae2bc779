"""In which format a model's matrices are packed for the native kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kept.errors import OptionError
from kept.models.native import Progress, matrices
from kept.ops import PackedMatrix, pack_int4, pack_int8, pack_matrix, runs_natively
from kept.ops.activations import Activations, choose_activations
from kept.ops.backend import why_torch
from kept.ops.blocks import BlockMatrix, CodedMatrix
from kept.ops.mxfp4 import Mxfp4Matrix
from kept.ops.quantize import (
    QUANTIZED_FORMATS,
    CodeFormat,
    QuantizedFormat,
    QuantizedMatrix,
    dequantize,
    quantize,
)
from kept.ops.stored_rows import StoredMatrix

if TYPE_CHECKING:
    from kept.models.causal_lm import CausalLM


def check_format(format: str | None) -> QuantizedFormat | None:
    """The format of a `quantize=`. Raises OptionError for one that there is not."""
    if format is None:
        return None
    for known in QUANTIZED_FORMATS:
        if isinstance(format, str) and format == known:
            return known
    raise OptionError(
        f"quantize={format!r} is not one of {', '.join(QUANTIZED_FORMATS)}; or leave it out"
    )


Fetch = Callable[[Tensor], Tensor | QuantizedMatrix | CodedMatrix | StoredMatrix]


def prepare(
    model: CausalLM,
    format: str | None = None,
    progress: Progress | None = None,
    *,
    fetch: Fetch | None = None,
    device: torch.device | None = None,
    activations: str = "auto",
    mostly: CodeFormat | None = None,
) -> None:
    """Make a loaded model ready to run: packed for the native kernels where they can run it.

    format: quantize its matrices to "int8" or "int4". Where the torch reference runs the model,
    each is replaced by the numbers its codes stand for, which saves no memory. progress: called
    with the numbers packed so far and their total. fetch: gives the numbers of a matrix that is
    still on the meta device, or its codes, once each, and a matrix that stays as it is stored;
    device: of the rest, by default the model's. activations: how they meet quantized weights, see
    `choose_activations`; mostly: for which format they are chosen, if not for `format`. Mutates the
    model. Raises OptionError for an unknown format, WeightsError for weights that cannot be
    quantized, and as `choose_activations`.
    """
    kind = check_format(format)
    place = device or model.device
    chosen = find_activations(model, activations, mostly or kind, model.dtype, place)
    given: Fetch = fetch or (lambda weight: weight)
    if may_run_natively(model, model.dtype, place):
        if kind is None:
            name = "bf16" if model.dtype == torch.bfloat16 else "fp32"
            model.pack(partial(_pack_floats, name, given), progress, None, chosen)
        else:
            # It tells how far it is by itself, also within a matrix.
            model.pack(Quantizer(model, kind, progress, given), None, torch.bfloat16, chosen)
    elif kind is not None:
        _round_matrices(model, kind, progress, given)


def may_run_natively(model: CausalLM, dtype: torch.dtype, device: torch.device) -> bool:
    """`ops.runs_natively` for a model loaded so; its own parameters are not looked at."""
    widest = max(shape.head_dim for shape in model.kv_shapes)
    return runs_natively(dtype, device, widest, model.not_native)


def find_activations(
    model: CausalLM,
    asked: str,
    format: CodeFormat | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Activations:
    """`choose_activations` for a model loaded so; raises as it does."""
    widest = max(shape.head_dim for shape in model.kv_shapes)
    return choose_activations(asked, format, why_torch(dtype, device, widest, model.not_native))


def _pack_floats(
    format: str, fetch: Fetch, weight: Tensor, gated: bool, bias: Tensor | None
) -> PackedMatrix:
    found = fetch(weight)
    if isinstance(found, Mxfp4Matrix | BlockMatrix | StoredMatrix):
        return found.pack(gated=gated, bias=bias)
    assert isinstance(found, Tensor)
    return pack_matrix(found, format, gated=gated, bias=bias)


class Quantizer:
    """Quantizes a model's matrices, one after the other, and tells how far it is."""

    def __init__(
        self,
        model: CausalLM,
        format: QuantizedFormat,
        progress: Progress | None = None,
        fetch: Fetch = lambda weight: weight,
    ) -> None:
        """progress: called with the numbers quantized so far and their total; fetch: see
        `prepare`."""
        self.format, self._progress, self._fetch = format, progress, fetch
        self._done = 0
        self._total = sum(modules[0].weight.numel() for modules in matrices(model))

    def __call__(self, weight: Tensor, gated: bool, bias: Tensor | None) -> PackedMatrix:
        """Quantize and pack the next matrix, or pack it as it is stored."""
        found = self.next(weight)
        if isinstance(found, BlockMatrix):
            return found.pack(gated=gated, bias=bias)
        pack = pack_int8 if self.format == "int8" else pack_int4
        return pack(found.codes, found.scales, gated=gated, bias=bias)

    def round(self, weight: Tensor) -> QuantizedMatrix:
        """Quantize the next matrix (out, in), if it does not come so."""
        found = self.next(weight)
        assert isinstance(found, QuantizedMatrix), "who rounds fetches no blocks"
        return found

    def next(self, weight: Tensor) -> QuantizedMatrix | BlockMatrix:
        """`round`, but a matrix that stays in its blocks as it is."""
        found = self._fetch(weight)
        assert not isinstance(found, StoredMatrix), "who rounds fetches numbers"
        if isinstance(found, Mxfp4Matrix):
            found = found.numbers(torch.bfloat16)
        if isinstance(found, QuantizedMatrix | BlockMatrix):
            self._tell(weight.numel())
        else:
            found = quantize(found, self.format, self._tell)
        self._done += weight.numel()
        return found

    def _tell(self, within: int) -> None:
        if self._progress is not None:
            self._progress(self._done + within, self._total)


def _round_matrices(
    model: CausalLM, format: QuantizedFormat, progress: Progress | None, fetch: Fetch
) -> None:
    quantizer = Quantizer(model, format, progress, fetch)
    for modules in matrices(model):
        old = modules[0].weight
        found = quantizer.next(old)
        if isinstance(found, BlockMatrix):
            numbers = found.numbers(old.dtype)
        else:
            numbers = dequantize(found).to(old.dtype)
        rounded = nn.Parameter(numbers, old.requires_grad)
        for module in modules:
            holder: Any = module
            holder.weight = rounded
