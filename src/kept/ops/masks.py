"""Which stored entries each query may see, from a span and a layer's spec.

             keys 0 1 2 3 4 5                          keys 0 1 2 3 4 5
causal     3      x x x x . .     window 3, one sink 3      x x x x . .
queries    4      x x x x x .                        4      x . x x x .
           5      x x x x x x                        5      x . . x x x
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kept.ops.spec import AttentionSpec
from kept.ops.views import Group, Span


@dataclass(frozen=True, slots=True)
class Visibility:
    """What the queries of one group see.

    begin, end: the stored entries that any of them sees. mask: (B', T, end - begin) bool, True
    where visible, or None: all of them, or, if `causal`, those up to the query's own place, where
    the entries are exactly the new tokens.
    """

    begin: int
    end: int
    mask: Tensor | None
    causal: bool = False

    def explicit(self, num_new: int, device: torch.device) -> Tensor:
        """The mask of T new tokens, (B', T, end - begin) bool, B' of 1 where there is none."""
        if self.mask is not None:
            return self.mask
        mask = torch.ones(1, num_new, self.end - self.begin, dtype=torch.bool, device=device)
        return mask.tril() if self.causal else mask


def visibility(span: Span, spec: AttentionSpec, group: Group) -> Visibility:
    """What a group's queries see; made once a step and shared by layers with the same spec."""
    key = (spec.causal, spec.window, spec.sinks, group.members)
    found = span.memo.get(key)
    if not isinstance(found, Visibility):
        found = span.memo[key] = _visibility(span, spec, group)
    return found


def _visibility(span: Span, spec: AttentionSpec, group: Group) -> Visibility:
    lengths = [span.lengths[m] for m in group.members]
    shortest, longest, count = min(lengths), max(lengths), group.num_new
    begin, end = 0, longest
    if spec.causal and spec.window is not None and not spec.sinks:
        begin = max(0, shortest - count + 1 - spec.window)
    plain = shortest == longest and not _narrowed(span, spec, longest - begin)
    if plain and (count == 1 or not spec.causal):
        return Visibility(begin, end, None)
    if plain and begin == 0 and count == longest:
        return Visibility(0, end, None, causal=True)
    return Visibility(begin, end, _mask(span, spec, group, begin, end))


def _narrowed(span: Span, spec: AttentionSpec, num_keys: int) -> bool:
    windows = [w for w in (spec.window, span.window) if w is not None]
    return spec.causal and any(num_keys > w for w in windows)


def _mask(span: Span, spec: AttentionSpec, group: Group, begin: int, end: int) -> Tensor:
    device = span.device
    members = torch.tensor(group.members, dtype=torch.int64, device=device)
    lengths = torch.tensor(span.lengths, dtype=torch.int64, device=device)
    lengths = lengths[members][:, None, None]  # (B', 1, 1)
    new = torch.arange(group.num_new, dtype=torch.int64, device=device)
    query = lengths - group.num_new + new[:, None]
    token = torch.arange(begin, end, dtype=torch.int64, device=device)[None, None]
    mask = (token < lengths) & torch.ones_like(query, dtype=torch.bool)  # (B', T, S)
    if spec.causal:
        mask &= token <= query
        for window, sinks in ((spec.window, spec.sinks), (span.window, span.sinks)):
            if window is not None:
                mask &= (token > query - window) | (token < sinks)
    return mask
