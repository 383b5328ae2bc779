"""Stands in for where a layer stores its keys, in a model whose operations are written down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kept.ops.spec import AttentionSpec

if TYPE_CHECKING:
    from kept.ops.trace import Heads


@dataclass(frozen=True)
class TracedView:
    """Stands in for a view of what a layer stores. crossing: it is a cross layer, counted among
    these."""

    layer: int
    crossing: bool = False


@dataclass(frozen=True)
class TracedStore:
    """Stands in for where a layer stores its keys, or for the layer whose keys it shares. crossing:
    it is a cross layer, counted among these."""

    layer: int
    shares: int | None = None
    crossing: bool = False

    def append(self, k: Heads, v: Heads) -> TracedView:
        """The keys are stored by the line that made them."""
        assert k.place is v.place
        assert self.shares is None, "this layer shares another's keys"
        k.place.layer, k.place.crossing = self.layer, self.crossing
        return TracedView(self.layer, self.crossing)

    def observe(self, q: Heads, spec: AttentionSpec) -> None:
        """Queries stay in their buffers, from where they are read after a run."""

    def read(self) -> TracedView:
        """What the layer that this one shares has stored, or a cross layer."""
        if self.crossing:
            return TracedView(self.layer, crossing=True)
        assert self.shares is not None, "this layer stores keys of its own"
        return TracedView(self.shares)
