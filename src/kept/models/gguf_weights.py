"""The tensors of a GGUF file under the names and in the shapes of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from kept.gguf import GGUFHeader
from kept.models.gguf_blocks import (
    DTYPES,
    KEPT_BLOCKS,
    ReadingRoom,
    block_matrix,
    dtype_of,
    read_mxfp4,
    read_rows,
)
from kept.models.gguf_source import Source
from kept.models.safetensors_file import TensorInfo
from kept.ops.blocks import CodedMatrix


class GGUFWeights:
    """Reads tensors of one file or several shards, from the places their headers have named.

    A tensor of blocks is float32. What is read is read anew each time: nothing is mapped, so that a
    file that is cut short meanwhile is an error and not a signal.
    """

    def __init__(self, header: GGUFHeader, sources: Mapping[str, Source]) -> None:
        """sources: the tensors by the names they are asked for."""
        self.header, self._sources = header, sources
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(
                source.tensor.path,
                dtype_of(source.tensor),
                source.shape,
                source.num_bytes,
                _start_of(source),
            )
            for name, source in sources.items()
        }
        self.metadata: Mapping[str, str] = {}
        self._room = ReadingRoom()

    @property
    def paths(self) -> list[Path]:
        """The files."""
        return sorted({source.tensor.path for source in self._sources.values()})

    def read(self, name: str) -> Tensor:
        """Tensor `name`, all of it. Raises WeightsError where the file cannot be read."""
        info = self.tensors[name]
        out = torch.empty(info.shape, dtype=info.dtype, device="cpu")
        for rows, numbers in self.pieces(name):
            out[rows] = numbers
        return out

    def pieces(self, name: str) -> Iterator[tuple[slice, Tensor]]:
        """Rows of tensor `name` (of dimension 0) and their numbers, until all are there.

        Raises as `read`, and UnsupportedFormatError without the package gguf.
        """
        source = self._sources[name]
        first, last = source.first, source.first + source.num_rows
        if len(source.shape) == 1:  # a row of numbers, each a row of the checkpoint's tensor
            for _, numbers in read_rows(source.tensor, first, last):
                vector = numbers.view(-1)
                found = vector if source.order is None else vector[source.order]
                yield slice(0, len(found)), _less(found, source.less)
            return
        for rows, numbers in read_rows(source.tensor, first, last, source.order):
            yield rows, _less(numbers, source.less)

    def codes(self, name: str) -> None:
        """Nothing: no block is one that `kept quantize` writes."""

    def coded_as(self, name: str) -> str | None:
        """The format of panels that hold a matrix as it is stored; None for any other tensor."""
        source = self._sources[name]
        if source.less or len(source.shape) != 2:
            return None
        if source.tensor.type.name == "MXFP4":
            return "mxfp4" if source.order is None else None
        return KEPT_BLOCKS.get(source.tensor.type.name)

    def coded(self, name: str) -> CodedMatrix | None:
        """A matrix that `coded_as` names a format for, as it is. Raises as `read`, in part when it
        is packed."""
        source, format = self._sources[name], self.coded_as(name)
        if format is None:
            return None
        if format == "mxfp4":
            return read_mxfp4(source.tensor, source.first, source.first + source.num_rows)
        num_out, num_in = source.shape
        return block_matrix(
            source.tensor, (num_out, num_in), source.first, source.order, self._room
        )

    def close(self) -> None:
        """Let go of the room that blocks were read into."""
        self._room = ReadingRoom()


def _start_of(source: Source) -> int | None:
    """The first byte of numbers that lie in the file as they are read."""
    tensor = source.tensor
    if tensor.type.name not in DTYPES or source.order is not None or source.less:
        return None
    return tensor.start + source.first * tensor.row_bytes


def _less(numbers: Tensor, less: float) -> Tensor:
    return numbers if not less else (numbers.float() - less).to(numbers.dtype)
