"""A checkpoint's tensor as a GGUF file has it: some rows of a tensor of that file."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from kept.gguf import GGUFTensor


@dataclass(frozen=True, slots=True)
class Source:
    """shape: of the checkpoint's tensor, (out, in) or (out,), whose rows of one length lie one
    behind the other from row `first` of the file's tensor on, however many dimensions that has.

    order: (out,) which of the stored rows each row is, None: as they lie. less: what is taken from
    each number, in fp32.
    """

    tensor: GGUFTensor
    shape: tuple[int, ...]
    first: int = 0
    order: Tensor | None = None
    less: float = 0.0

    @property
    def num_rows(self) -> int:
        """Stored rows that it takes."""
        return math.prod(self.shape) // self.tensor.shape[-1]

    @property
    def num_bytes(self) -> int:
        """Of those."""
        return self.num_rows * self.tensor.row_bytes
