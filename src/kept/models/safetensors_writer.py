"""Writing a safetensors file tensor by tensor, so that they need not all be in memory at once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kept.models.safetensors_file import DTYPES

ALIGNMENT = 64  # of the first tensor in the file, and so of all whose sizes are multiples of it
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_PIECE = 1 << 24  # bytes written at a time, between which Ctrl-C is heard


def write_safetensors(
    path: Path,
    kinds: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
    tensors: Iterable[tuple[str, Tensor]],
    metadata: Mapping[str, str],
) -> None:
    """Write a new file and wait until it is on disk.

    kinds: the dtype and shape of every tensor, in the order of the file. tensors: the same, by name
    and in this order; each is asked for once the one before is written. Raises OSError.
    """
    with path.open("xb") as file:
        file.write(_header(kinds, metadata))
        for (name, kind), (given, tensor) in zip(kinds.items(), tensors, strict=True):
            assert given == name, (given, name)
            assert (tensor.dtype, tuple(tensor.shape)) == kind, name
            data = tensor.contiguous().flatten().view(torch.uint8).numpy().data
            for start in range(0, len(data), _PIECE):
                file.write(data[start : start + _PIECE])
        file.flush()
        os.fsync(file.fileno())


def _header(
    kinds: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], metadata: Mapping[str, str]
) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, (dtype, shape) in kinds.items():
        start, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        entries[name] = {
            "dtype": _CODES[dtype],
            "shape": list(shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)  # the format allows spaces behind the JSON
    return len(text).to_bytes(8, "little") + text
