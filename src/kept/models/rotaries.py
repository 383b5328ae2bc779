"""Several rotary embeddings in one model: layers that differ in their base, as Gemma 3's do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from operator import is_not
from typing import Any, cast

import torch
from torch import Tensor

from kept.batch import Batch
from kept.errors import UnsupportedModelError
from kept.models.rope import Rotary
from kept.models.rope_config import RopeConfig
from kept.ops import Rope, RopeTables
from kept.ops.trace import is_traced
from kept.ops.traced_batch import TracedRope


class Rotaries:
    """Makes the cosines and sines of a batch's positions, for each of several embeddings.

    Raises UnsupportedModelError for one among several that follows the length, as its tables differ
    from step to step.
    """

    def __init__(self, configs: Sequence[RopeConfig]) -> None:
        moving = [config.type for config in configs if config.follows_length]
        if moving and len(configs) > 1:  # tables that lie side by side take the same rows
            raise UnsupportedModelError(
                f"config.json has {moving[0]} rotary scaling in a model whose layers differ in "
                "their bases; kept runs it where all layers share one"
            )
        moves = bool(moving)
        self.follow_length = moves  # whether a position's angles depend on the text's length
        self.reread_at = configs[0].reread_at  # see `CausalLM.reread_at`
        self._each = [Rotary(config) for config in configs]
        widths = [config.dim // 2 for config in configs]
        self._stride = sum(widths)
        self._begins = tuple(accumulate(widths[:-1], initial=0))
        self._joined: tuple[list[Tensor], tuple[Tensor, Tensor]] | None = None

    def tables(self, batch: Batch, dtype: torch.dtype) -> tuple[Rope, ...]:
        """See `Rotary.tables`, one for each embedding."""
        if is_traced(batch):
            stand_ins = (
                TracedRope(rotary.config.dim, begin, self._stride)
                for rotary, begin in zip(self._each, self._begins, strict=True)
            )
            found: tuple[Rope, ...] = cast(Any, tuple(stand_ins))
            return found
        return tuple(rotary.tables(batch, dtype) for rotary in self._each)

    def halves(self, batch: Batch) -> RopeTables:
        """See `Rotary.halves`: the tables of all embeddings, side by side."""
        return self._side_by_side([rotary.halves(batch) for rotary in self._each])

    def ahead(self, lengths: Sequence[int]) -> RopeTables:
        """See `Rotary.ahead`: the tables of all embeddings, side by side."""
        return self._side_by_side([rotary.ahead(lengths) for rotary in self._each])

    def _side_by_side(self, parts: list[RopeTables]) -> RopeTables:
        known = [part.cos for part in parts]
        if self._joined is None or any(map(is_not, self._joined[0], known)):
            with torch.inference_mode(False):
                cos, sin = torch.cat(known, dim=1), torch.cat([x.sin for x in parts], dim=1)
            self._joined = known, (cos, sin)
        cos, sin = self._joined[1]
        return replace(parts[0], cos=cos, sin=sin)
