"""What all heads attend one latent by, in plain torch.

A token's key is its latent c, of C numbers, and behind it r, of R numbers that turn with the
position; its value is c. A head multiplies c by a matrix for its keys and by one for its values.
Both are taken to the other side, so that neither is ever made:

    q . (U c) = (U' q) . c          before attention, U' q of C numbers
    sum p (V c) = V (sum p c)       behind it

Source: DeepSeek-AI 2024, "DeepSeek-V2", section 2.1 and appendix C.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kept.ops.norms import rms_norm
from kept.ops.packed import PackedMatrix, pack_matrix
from kept.ops.reference import rotary
from kept.ops.spec import HeadSpec


@dataclass(frozen=True, slots=True)
class LatentSpec:
    """How rows fall into what heads attend one latent by: C numbers of a latent, R that turn, and
    `plain` numbers of a query's head that do not. norm_eps: of the latent's norm. neighbours: as of
    a `HeadSpec`."""

    num_heads: int
    latent: int
    turning: int
    plain: int
    norm_eps: float
    neighbours: bool = True

    @property
    def heads(self) -> HeadSpec:
        """What attention sees of them: queries of C + R, over one key that its value begins."""
        width = self.latent + self.turning
        return HeadSpec(self.num_heads, 1, width, value_dim=self.latent, in_keys=True)


@dataclass(frozen=True, eq=False)
class HeadMatrices:
    """A matrix for each head: (H, B, A), or each packed."""

    numbers: Tensor | None
    packed: tuple[PackedMatrix, ...] = ()

    @property
    def num_out(self) -> int:
        """B"""
        return self.packed[0].num_out if self.numbers is None else self.numbers.shape[1]


def pack_heads(weight: Tensor, format: str) -> HeadMatrices:
    """Matrices (H, B, A), each in panels of its own."""
    return HeadMatrices(None, tuple(pack_matrix(each.contiguous(), format) for each in weight))


def head_products(x: Tensor, matrices: HeadMatrices, stride: int) -> Tensor:
    """Each head's matrix by its own numbers; see `ops`."""
    weight = matrices.numbers
    assert weight is not None, "packed matrices are for the kernels"
    heads, _, width = weight.shape
    own = x.unflatten(1, (heads, stride))[..., :width]  # (N, H, A)
    return torch.einsum("nha,hba->nhb", own, weight).flatten(1)


def split_latent(
    absorbed: Tensor,
    q: Tensor,
    compressed: Tensor,
    norm: Tensor,
    spec: LatentSpec,
    rope: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of latent attention; see `ops`."""
    heads, latent = spec.num_heads, spec.latent
    turning = q.unflatten(1, (heads, spec.plain + spec.turning))[..., spec.plain :]
    together = torch.cat((turning, compressed[:, None, latent:]), dim=1)  # (N, H + 1, R)
    turned = rotary(together, *rope, neighbours=spec.neighbours)
    queries = torch.cat((absorbed.unflatten(1, (heads, latent)), turned[:, :heads]), dim=-1)
    normed = rms_norm(compressed[:, :latent], norm, spec.norm_eps)
    keys = torch.cat((normed[:, None], turned[:, heads:]), dim=-1)  # (N, 1, C + R)
    return queries, keys, keys[..., :latent]
