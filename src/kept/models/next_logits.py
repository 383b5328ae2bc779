"""What a pass leaves for the sampler."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class NextLogits:
    """What a step of generation draws from.

    logits: (M, V) fp32 of the wanted rows; good until the model's next pass. best: (M,) the largest
    of each and the first token that has it, where the pass found them on its way.
    """

    logits: Tensor
    best: list[tuple[float, int]] | None = None

    def row(self, index: int) -> NextLogits:
        """One row, (1, V), copied, so that it stays good."""
        best = None if self.best is None else self.best[index : index + 1]
        return NextLogits(self.logits[index : index + 1].clone(), best)

    def rows(self, first: int, end: int) -> NextLogits:
        """Rows first to end, not copied."""
        if first == 0 and end == len(self.logits):
            return self
        return NextLogits(self.logits[first:end], self.best and self.best[first:end])
