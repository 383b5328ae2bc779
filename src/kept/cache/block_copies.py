"""Entries of blocks that other blocks begin with: copied in all buffers of a memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from kept.cache.layout import Copies

# A buffer (P, G, 64, width), as numpy has it where it lies in CPU memory: of a few entries torch
# would take longer to find them than to copy them.
Entries = NDArray[Any] | Tensor

# Numbers of so many bytes, for numpy, which has no bfloat16.
_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def entries_of(buffer: Tensor) -> Entries:
    """The entries of a buffer (P, G, 64, width), which are not copied."""
    return buffer.view(_WHOLE[buffer.itemsize]).numpy() if buffer.is_cpu else buffer


def copy_entries(buffers: Sequence[Entries], copies: Copies) -> None:
    """Let blocks begin as others do, in each of the buffers, which are written to."""
    each: Any
    for each in buffers:
        for source, copied, count in copies:  # one indexed copy takes eight times as long
            each[copied, :, :count] = each[source, :, :count]
