"""Matrices that lie in files row by row, packed without a copy of them in memory on the way."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from torch import Tensor

from kept.errors import WeightsError
from kept.ops.packed import (
    GROUP_SCALES,
    PackedMatrix,
    outputs,
    refuse_row,
    room_for,
    room_for_scales,
)

_WHOLE, _STRANGE, _CUT = 0, 1, 2  # how reading ended


@dataclass(frozen=True, slots=True)
class StoredRows:
    """Rows of a matrix that lie one behind the other in a file.

    name: of the tensor they are of. start: their first byte in `path`.
    """

    path: Path
    name: str
    start: int
    num_rows: int


@dataclass(frozen=True, slots=True, eq=False)
class StoredMatrix:
    """A matrix (out, in) of numbers in "fp32" or "bf16", whose rows are those of all parts."""

    format: str
    num_out: int
    num_in: int
    parts: tuple[StoredRows, ...]

    def pack(self, *, gated: bool, bias: Tensor | None) -> PackedMatrix:
        """As the native kernels read it. Raises as `pack_stored`."""
        size = self.num_out, self.num_in
        return pack_stored(self.format, size, self.parts, gated=gated, bias=bias)


def pack_stored(
    format: str,
    size: tuple[int, int],
    parts: Sequence[StoredRows],
    *,
    gated: bool = False,
    bias: Tensor | None = None,
) -> PackedMatrix:
    """Pack a matrix of `size` (num_out, num_in) whose rows lie in files.

    format: "fp32" or "bf16", of numbers, "q8_0" or "q4_0", of blocks, in which the rows are stored
    as well. Raises WeightsError for a file that cannot be read or has become shorter, and as
    `pack_blocks`.
    """
    from kept import _native

    shape, data = room_for(format, gated, size)
    scales = None
    if format in GROUP_SCALES:
        scales = room_for_scales(shape, GROUP_SCALES[format])
    with ExitStack() as opened:
        found = [(_open(rows, opened), rows.start, rows.num_rows) for rows in parts]
        end, where, error = _native.pack_stored(shape, found, data, scales)
    if end == _STRANGE:
        raise refuse_row(where, format, size, _source(parts, where))
    if end == _CUT:
        raise WeightsError(
            f"{parts[where].path} ends within tensor {parts[where].name!r}: it has become shorter "
            "since it was opened. Download it again."
        )
    if end != _WHOLE:
        raise WeightsError(f"{parts[where].path} cannot be read: {os.strerror(error)}.")
    of_outputs = None, scales, outputs(shape, bias, size[0])
    return PackedMatrix(format, gated, *size, data, *of_outputs)


def _source(parts: Sequence[StoredRows], row: int) -> str:
    ends = list(accumulate(rows.num_rows for rows in parts))
    found = parts[bisect_right(ends, row)]
    return f", of tensor {found.name!r} in {found.path},"


def _open(rows: StoredRows, opened: ExitStack) -> int:
    try:
        return opened.enter_context(rows.path.open("rb", buffering=0)).fileno()
    except OSError as error:
        raise WeightsError(f"{rows.path} cannot be read: {error.strerror}.") from error
