"""What a pass leaves for the sampler."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kept.ops import Program
from kept.sampling import Likeliest


@dataclass(frozen=True, slots=True)
class NextLogits:
    """What a step of generation draws from.

    logits: (M, V) fp32 of the wanted rows; good until the model's next pass. best: (M,) the largest
    of each and the first token that has it, where the pass found them on its way. likeliest: the
    largest few, where they were asked for.
    """

    logits: Tensor
    best: list[tuple[float, int]] | None = None
    likeliest: Likeliest | None = None

    def row(self, index: int) -> NextLogits:
        """One row, (1, V), copied, so that it stays good."""
        found = self.rows(index, index + 1)
        return NextLogits(found.logits.clone(), found.best, found.likeliest)

    def rows(self, first: int, end: int) -> NextLogits:
        """Rows first to end, not copied."""
        if first == 0 and end == self.logits.shape[0]:
            return self
        likeliest = self.likeliest and self.likeliest.rows(first, end)
        return NextLogits(self.logits[first:end], self.best and self.best[first:end], likeliest)

    def take(self, indices: list[int]) -> NextLogits:
        """Any of the rows, copied."""
        best = None if self.best is None else [self.best[i] for i in indices]
        return NextLogits(
            self.logits[indices], best, self.likeliest and self.likeliest.take(indices)
        )


def likeliest(program: Program) -> Likeliest | None:
    """What the last run found of the largest logits, if its step asked for them."""
    found = program.top()
    return None if found is None else Likeliest(*found)
