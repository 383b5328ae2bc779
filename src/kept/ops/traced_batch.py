"""Stands in for a batch, in a model whose operations are written down."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kept.ops.lines import Trace


@dataclass(frozen=True)
class Ids:
    """Stands in for the token ids or the positions of a batch, (N,). ahead: added to them."""

    trace: Trace
    are_positions: bool
    ahead: int = 0

    def __add__(self, ahead: int) -> Ids:
        """Positions further on."""
        return replace(self, ahead=self.ahead + ahead)


@dataclass(frozen=True)
class TracedBatch:
    """Stands in for a batch."""

    tokens: Ids
    positions: Ids


@dataclass(frozen=True)
class TracedRope:
    """Stands in for the rotary tables of a batch. dim: R. begin, stride: see `Place`."""

    dim: int
    begin: int = 0
    stride: int | None = None
