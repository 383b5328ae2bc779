"""The numbers of a GGUF tensor, read a piece at a time.

What is no plain number the package gguf makes into floats, as its authors publish them: a block's
weights are its codes by its scale, in fp32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from io import RawIOBase
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kept.errors import UnsupportedFormatError, WeightsError
from kept.gguf import GGUFTensor
from kept.ops.blocks import BlockMatrix
from kept.ops.mxfp4 import Mxfp4Matrix
from kept.ops.quantize import BlockFormat
from kept.ops.stored_rows import StoredRows

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_PIECE = 1 << 18  # weights made at a time: what the outer cache holds
# Of blocks read at a time: threads that share less touch the same huge page for the first time, and
# each clears all of it.
_PIECE_BYTES = 8 << 20
_PANEL = 32  # rows that are packed together
KEPT_BLOCKS: Mapping[str, BlockFormat] = {"Q8_0": "q8_0", "Q4_0": "q4_0"}


def read_floats(tensor: GGUFTensor) -> Tensor:
    """All of a tensor, in its stored dtype or (blocks) float32."""
    out = torch.empty(tensor.shape, dtype=dtype_of(tensor), device="cpu")
    rows = out.view(-1, tensor.shape[-1])
    for part, numbers in read_rows(tensor, 0, len(rows)):
        rows[part] = numbers
    return out


def dtype_of(tensor: GGUFTensor) -> torch.dtype:
    """What its numbers are read in."""
    return DTYPES.get(tensor.type.name, torch.float32)


def read_rows(
    tensor: GGUFTensor, start: int, stop: int, order: Tensor | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """Rows `start` to `stop` of a tensor whose dimensions but the last are one, in pieces.

    order: (stop - start) of those rows, in the order to give them out in. Yields where each piece
    belongs, counted from 0, and its numbers. Raises WeightsError where the file is not what its
    header said, UnsupportedFormatError without the package gguf.
    """
    width = tensor.shape[-1]
    step = max(_PIECE // width, 1)
    whole = None if order is None else _read(tensor, start, stop)[order.numpy()]
    for first in range(0, stop - start, step):
        last = min(first + step, stop - start)
        raw = _read(tensor, start + first, start + last) if whole is None else whole[first:last]
        yield slice(first, last), _numbers(tensor, raw).view(last - first, width)


def read_mxfp4(tensor: GGUFTensor, start: int, stop: int) -> Mxfp4Matrix:
    """Rows `start` to `stop` of a tensor in MXFP4: a block is its exponent and 16 bytes, the codes
    of its first half in the low halves and those of its second in the high ones.

    Raises as `read_rows`.
    """
    blocks = torch.from_numpy(_read(tensor, start, stop)).view(stop - start, -1, 17)
    codes = torch.cat((blocks[..., 1:] & 15, blocks[..., 1:] >> 4), dim=-1)
    return Mxfp4Matrix(codes.flatten(1), blocks[..., 0].contiguous())


class ReadingRoom:
    """Memory that pieces of rows are read into, each where the one before was: what is new to a
    process takes longer to come by than what is then read into it."""

    def __init__(self) -> None:
        self._held = np.empty(0, dtype=np.uint8)

    def rows(self, count: int, row_bytes: int) -> Any:
        """Room for so many rows (count, row_bytes) uint8, in place of what was there."""
        size = count * row_bytes
        if self._held.nbytes < size:
            self._held = np.empty(size, dtype=np.uint8)
        return self._held[:size].reshape(count, row_bytes)


def block_matrix(
    tensor: GGUFTensor,
    size: tuple[int, int],
    start: int,
    order: Tensor | None = None,
    room: ReadingRoom | None = None,
) -> BlockMatrix:
    """A matrix of `size` (out, in) in Q8_0 or Q4_0, of the rows of a tensor from `start` on.

    order: as of `read_rows`; room: where its pieces are to lie. Reading it raises as `read_rows`.
    """
    pieces = partial(_read_blocks, tensor, start, size[0], order, room or ReadingRoom())
    begin = tensor.start + start * tensor.row_bytes
    parts = () if order is not None else (StoredRows(tensor.path, tensor.name, begin, size[0]),)
    return BlockMatrix(KEPT_BLOCKS[tensor.type.name], *size, pieces, parts)


def _read_blocks(
    tensor: GGUFTensor, start: int, count: int, order: Tensor | None, room: ReadingRoom
) -> Iterator[tuple[int, Tensor]]:
    if order is not None:
        yield 0, torch.from_numpy(_read(tensor, start, start + count)[order.numpy()])
        return
    step = min(max(_PIECE_BYTES // tensor.row_bytes // _PANEL, 1) * _PANEL, count)
    for first in range(0, count, step):
        rows = room.rows(min(step, count - first), tensor.row_bytes)
        _read_into(rows, tensor, start + first)
        yield first, torch.from_numpy(rows)


def _read(tensor: GGUFTensor, start: int, stop: int) -> Any:  # (rows, row_bytes) uint8
    found = np.empty((stop - start, tensor.row_bytes), dtype=np.uint8)
    _read_into(found, tensor, start)
    return found


def _read_into(found: Any, tensor: GGUFTensor, start: int) -> None:
    try:
        with tensor.path.open("rb", buffering=0) as file:
            file.seek(tensor.start + start * tensor.row_bytes)
            count = _fill(file, memoryview(found).cast("B"))
    except OSError as error:
        raise WeightsError(f"{tensor.path} cannot be read: {error.strerror}.") from error
    if count != found.nbytes:
        raise WeightsError(
            f"{tensor.path} ends within tensor {tensor.name!r}: it has become shorter since it was "
            "opened. Download it again."
        )


def _fill(file: RawIOBase, room: memoryview) -> int:
    """How many bytes were read: the system may give fewer at once than are there."""
    count = 0
    while count < len(room):
        got = file.readinto(room[count:])
        if not got:
            break
        count += got
    return count


def _numbers(tensor: GGUFTensor, raw: Any) -> Tensor:
    dtype = DTYPES.get(tensor.type.name)
    if dtype is not None:
        return torch.from_numpy(raw.reshape(-1)).view(dtype)
    try:
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize
    except ImportError as error:
        raise UnsupportedFormatError(
            f"{tensor.path} holds blocks of {tensor.type.name}, which the package gguf reads, and "
            "it is not installed; pip install 'kept-llm[gguf]'"
        ) from error
    # As one row: the package works on sixteen of them at a time, however short they are.
    found = dequantize(raw.reshape(1, -1), GGMLQuantizationType[tensor.type.name])
    return torch.from_numpy(found.reshape(-1))
