"""What of a checkpoint stays in the blocks it is stored in, and what becomes of the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import torch

from kept.models.causal_lm import CausalLM
from kept.models.dtypes import is_unsaid
from kept.models.quantized_format import StoredMatrix, plain_parameters, stored_matrices
from kept.models.weights import StoredWeights
from kept.ops.packed_layout import PackedShape
from kept.ops.quantize import BLOCK_FORMATS, QUANTIZED_FORMATS, CodeFormat, QuantizedFormat

MXFP4 = "mxfp4"


def staying_formats(
    asked: str | torch.dtype | None, dtype: torch.dtype, device: torch.device
) -> tuple[str, ...]:
    """The formats of panels whose blocks stay as they are where no `quantize` is asked for.

    asked: the dtype that was asked for; dtype: what follows from it. bfloat16 holds every number of
    MXFP4, so who asks for that gets the same.
    """
    if device.type != "cpu" or dtype != torch.bfloat16:
        return ()
    return (MXFP4, *BLOCK_FORMATS) if is_unsaid(asked) else (MXFP4,)


@dataclass(frozen=True)
class Holding:
    """A matrix and the format it is held in once loaded; None: the model's dtype."""

    matrix: StoredMatrix
    format: str | None

    @property
    def num_weights(self) -> int:
        """Numbers of the matrix."""
        return self.matrix.shape.num_out * self.matrix.shape.num_in

    def num_bytes(self, dtype: torch.dtype) -> int:
        """Bytes of it; dtype: the model's."""
        shape = self.matrix.shape
        for kind in (*QUANTIZED_FORMATS, *BLOCK_FORMATS):
            # MXFP4 is laid out as int4, whose groups are its blocks.
            if kind == ("int4" if self.format == MXFP4 else self.format):
                found = PackedShape(kind, shape.gated, shape.num_out, shape.num_in)
                return found.num_bytes(self.matrix.has_bias)
        bias = shape.num_out if self.matrix.has_bias else 0
        return (self.num_weights + bias) * dtype.itemsize


def holdings(
    model: CausalLM, weights: StoredWeights, stays: Collection[str], rest: QuantizedFormat | None
) -> list[Holding]:
    """Every matrix of a model on the meta device, and what it is held in; none is read.

    stays: formats whose blocks stay; rest: what other matrices are quantized to.
    """
    found = []
    for matrix in stored_matrices(model, "int8"):
        stored = weights.coded_as(f"{matrix.name}.weight")
        found.append(Holding(matrix, stored if stored in stays else rest))
    return found


def mostly(held: Iterable[Holding]) -> CodeFormat | None:
    """The format that most weights are in, for which activations are chosen; None: none that they
    could meet as whole numbers."""
    counts: Counter[str | None] = Counter()
    for each in held:
        counts[each.format] += each.num_weights
    most = counts.most_common(1)[0][0] if counts else None
    return next((x for x in (*QUANTIZED_FORMATS, *BLOCK_FORMATS) if x == most), None)


def names_of(held: Iterable[Holding], dtype_name: str) -> str:
    """The formats in words, that of most weights first."""
    counts: Counter[str] = Counter()
    for each in held:
        counts[each.format or dtype_name] += each.num_weights
    return ", ".join(name for name, _ in counts.most_common())


def total_bytes(model: CausalLM, held: Iterable[Holding], dtype: torch.dtype) -> int:
    """Bytes of all weights, those that are no matrices in `dtype`."""
    plain = sum(x.numel() for x in plain_parameters(model).values()) * dtype.itemsize
    return plain + sum(each.num_bytes(dtype) for each in held)
