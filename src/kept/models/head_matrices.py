"""The matrices that make keys and values of a latent, one each for every head."""

from __future__ import annotations

from torch import Tensor, nn

from kept.models.layers import parameter
from kept.ops import HeadMatrices, LatentSpec, PackedMatrix, pack_heads


class LatentMatrices(nn.Module):
    """`kv_b_proj`: of each head plain rows for its keys, and behind them value_dim for its values.

    Few beside what surrounds them, and multiplied with queries and sums that are rounded by
    nothing else: they are kept as they are where other matrices are quantized.
    """

    def __init__(self, latent: LatentSpec, value_dim: int) -> None:
        super().__init__()
        self._latent = latent
        size = latent.num_heads * (latent.plain + value_dim), latent.latent
        self._numel = size[0] * size[1]
        self.weight: Tensor | None = parameter(*size)
        self._packed: tuple[HeadMatrices, HeadMatrices] | None = None

    @property
    def numel(self) -> int:
        """How many numbers the matrices are."""
        return self._numel

    @property
    def packed(self) -> tuple[PackedMatrix, ...]:
        """Of all heads, where the kernels have them."""
        return () if self._packed is None else sum((each.packed for each in self._packed), ())

    @property
    def keys(self) -> HeadMatrices:
        """(H, C, plain): what a query's head multiplies the latent with, by the numbers it has."""
        return self._both()[0]

    @property
    def values(self) -> HeadMatrices:
        """(H, value_dim, C)"""
        return self._both()[1]

    def _both(self) -> tuple[HeadMatrices, HeadMatrices]:
        if self._packed is not None:
            return self._packed
        assert self.weight is not None
        heads = self.weight.unflatten(0, (self._latent.num_heads, -1))
        keys, values = heads[:, : self._latent.plain], heads[:, self._latent.plain :]
        return HeadMatrices(keys.transpose(1, 2)), HeadMatrices(values)

    def pack(self, format: str) -> None:
        """Have the kernels' panels in place of the weight."""
        made = []
        for each in self._both():
            assert each.numbers is not None
            made.append(pack_heads(each.numbers.detach(), format))
        self._packed, self.weight = (made[0], made[1]), None
