"""Biases by distance: a number added to a score for how far the key is from the query.

T5's relative position bias looks it up:

query - key    0  1  2 ... | 8, 9 | 10 ... 13 | ...      one bucket for each small distance,
bucket         0  1  2 ... |  8   |     9     | ...      then buckets ever wider, the last endless

ALiBi takes a slope for each head times the distance, which has no end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kept.ops.masks import Visibility
from kept.ops.spec import AttentionSpec
from kept.ops.views import Group, Span


@dataclass(frozen=True, slots=True, eq=False)
class RelativeBias:
    """What layers that share one table add to their scores.

    weight: (buckets, H). max_distance: where the last bucket begins. bidirectional: half of the
    buckets are for keys behind the query, the other half for those before it; else keys behind it
    count as at its own place. Make one for a pass, which its layers then share.

    Source: Raffel et al. 2020, section 2.1 (config `relative_attention_num_buckets` and
    `relative_attention_max_distance`).
    """

    weight: Tensor
    max_distance: int
    bidirectional: bool

    def buckets(self, distance: Tensor) -> Tensor:
        """The bucket of each distance, key place less query place; the same shape, int64."""
        count = self.weight.shape[0]
        first, away = torch.zeros_like(distance), (-distance).clamp(min=0)
        if self.bidirectional:
            count //= 2
            first, away = (distance > 0).long() * count, distance.abs()
        exact = count // 2
        steps = torch.log(away.clamp(min=1).float() / exact)
        steps = steps / math.log(self.max_distance / exact) * (count - exact)
        wide = (exact + steps.long()).clamp(max=count - 1)
        return first + torch.where(away < exact, away, wide)

    def by_distance(self, apart: int) -> Tensor:
        """(H, 2 * (reach + apart) - 1) fp32: at distances from -(reach + apart - 1) on, as many on
        either side. Beyond `reach` it is what it is there."""
        last = self.reach + apart - 1
        distance = torch.arange(-last, last + 1, dtype=torch.int64, device=self.weight.device)
        return self.weight.detach().float().T[:, self.buckets(distance)].contiguous()

    @property
    def reach(self) -> int:
        """How far apart query and key are where the last bucket has begun."""
        return max(self.max_distance, self.weight.shape[0])

    def between(self, query: Tensor, key: Tensor) -> Tensor:
        """(B, H, T, S) for queries at places (B, T) and keys at places (B, S)."""
        buckets = self.buckets(key[:, None] - query[:, :, None])  # (B, T, S)
        return self.weight.T[:, buckets].transpose(0, 1)


@dataclass(frozen=True, slots=True, eq=False)
class LinearBias:
    """What layers add to their scores: a slope for each head times key place less query place.

    slopes: (H,) fp32, above 0. Make one for a pass, which its layers then share.
    Source: Press et al. 2022, "Train Short, Test Long".
    """

    slopes: Tensor

    def between(self, query: Tensor, key: Tensor) -> Tensor:
        """(B, H, T, S) for queries at places (B, T) and keys at places (B, S)."""
        distance = (key[:, None] - query[:, :, None]).float()  # (B, T, S)
        return distance[:, None] * self.slopes.to(distance.device)[:, None, None]


Bias = RelativeBias | LinearBias


def biased_mask(
    bias: Bias, span: Span, spec: AttentionSpec, group: Group, seen: Visibility
) -> Tensor:
    """What a group's scores take on: the bias, and minus infinity where nothing is seen.

    (B', H, T, end - begin), B' of 1 where all sequences have the same; made once a step.
    """
    key = (bias, spec.causal, spec.window, spec.sinks, group.members)
    found = span.memo.get(key)
    if not isinstance(found, Tensor):
        found = span.memo[key] = _biased_mask(bias, span, group, seen)
    return found


def _biased_mask(bias: Bias, span: Span, group: Group, seen: Visibility) -> Tensor:
    device, members = span.device, list(group.members)
    keys = torch.arange(seen.begin, seen.end, dtype=torch.int64, device=device)[None]
    if len({span.lengths[m] for m in members}) == 1:
        members = members[:1]
    ends = torch.tensor([span.lengths[m] for m in members], dtype=torch.int64, device=device)
    new = torch.arange(group.num_new, dtype=torch.int64, device=device)
    queries = ends[:, None] - group.num_new + new
    found = bias.between(queries, keys)
    if seen.mask is None and not seen.causal:
        return found
    return found.masked_fill(~seen.explicit(group.num_new, device)[:, None], -math.inf)
