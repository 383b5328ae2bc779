"""Weights that others have quantized, as the numbers their codes stand for.

Each format is a function that finds, among a checkpoint's tensors, the parts that matrices were
taken apart into, and says how they go together again. What a file says of their sizes is held
against them before any is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kept.errors import WeightsError
from kept.models.safetensors_file import SafetensorsFile, TensorInfo
from kept.ops.quantize import QuantizedMatrix

# How activations were to be rounded, which kept decides itself.
_OF_ACTIVATIONS = re.compile(r"\.(input|output|k|v|q)_(scale|zero_point|global_scale|scale_ub)$")
Parts = Mapping[str, Tensor]
WORD = 32  # bits


@dataclass(frozen=True, slots=True)
class Coded:
    """A matrix that is stored as codes.

    shape: (out, in). parts: names of tensors by what they are to `numbers`, which makes (out, in)
    fp32 of them. exact: makes kept's own codes of the same numbers, None where that cannot be.
    """

    shape: tuple[int, int]
    parts: Mapping[str, str]
    numbers: Callable[[Parts], Tensor]
    exact: Callable[[Parts], QuantizedMatrix | None] = lambda _: None


class CodedFile:
    """Files of tensors of which some are parts of matrices; see `SafetensorsFile`.

    A matrix has the name that an unquantized checkpoint has for it, and is float32.
    """

    def __init__(self, files: list[SafetensorsFile], coded: Mapping[str, Coded]) -> None:
        """coded: by the names of the matrices. Raises WeightsError for one that is there twice."""
        self._file_of = {name: file for file in files for name in file.tensors}
        self._coded = coded
        parts = {part for each in coded.values() for part in each.parts.values()}
        self.tensors: dict[str, TensorInfo] = {}
        for name, each in coded.items():
            if name in self._file_of and name not in each.parts.values():
                raise WeightsError(
                    f"{self._file_of[name].path}: {name!r} is stored as numbers and as codes "
                    f"({next(iter(each.parts.values()))!r}); save the checkpoint again with one "
                    "of them"
                )
            infos = [self._file_of[part].tensors[part] for part in each.parts.values()]
            size = sum(info.num_bytes for info in infos)
            self.tensors[name] = TensorInfo(infos[0].file, torch.float32, each.shape, size)
        self.tensors |= {
            name: file.tensors[name]
            for name, file in self._file_of.items()
            if name not in parts and name not in coded and not _OF_ACTIVATIONS.search(name)
        }
        self.metadata: Mapping[str, str] = {}

    @property
    def paths(self) -> list[Path]:
        """The files."""
        return sorted({file.path for file in self._file_of.values()})

    def read(self, name: str) -> Tensor:
        """Tensor `name`. Raises WeightsError where its parts cannot be read or contradict."""
        each = self._coded.get(name)
        if each is None:
            return self._file_of[name].read(name)
        numbers = each.numbers(self._parts(each))
        assert numbers.shape == each.shape, f"{name}: {tuple(numbers.shape)} {each.shape}"
        return numbers

    def pieces(self, name: str) -> Iterator[tuple[slice, Tensor]]:
        """All of tensor `name` at once. Raises as `read`."""
        yield slice(None), self.read(name)

    def codes(self, name: str) -> QuantizedMatrix | None:
        """Kept's own codes of matrix `name` where they stand for the very same numbers.

        Raises as `read`.
        """
        each = self._coded.get(name)
        return None if each is None else each.exact(self._parts(each))

    def coded_as(self, name: str) -> None:
        """Nothing: none is stored as panels hold it."""

    def coded(self, name: str) -> None:
        """Nothing, as `coded_as`."""

    def close(self) -> None:
        """Drop the files' mappings."""
        for file in {id(file): file for file in self._file_of.values()}.values():
            file.close()

    def _parts(self, each: Coded) -> dict[str, Tensor]:
        return {role: self._file_of[part].read(part) for role, part in each.parts.items()}


def check_parts(
    tensors: Mapping[str, TensorInfo],
    parts: Mapping[str, str],
    wanted: Mapping[str, tuple[tuple[torch.dtype, ...], tuple[int, ...]]],
) -> None:
    """Raise WeightsError unless every part is of one of its dtypes and of its shape."""
    missing = next((name for name in parts.values() if name not in tensors), None)
    if missing is not None:
        raise WeightsError(
            f"the weights lack {missing!r}, without which {next(iter(parts.values()))!r} is of no "
            "use; download the checkpoint again"
        )
    for role, (dtypes, shape) in wanted.items():
        name = parts[role]
        info = tensors[name]
        if info.dtype not in dtypes or info.shape != shape:
            raise WeightsError(
                f"{info.file}: {name!r} is {str(info.dtype).removeprefix('torch.')} {info.shape} "
                f"and should be {' or '.join(str(d).removeprefix('torch.') for d in dtypes)} "
                f"{shape}; its quantization is not what config.json says, or the file is damaged"
            )


def unpack(words: Tensor, bits: int) -> Tensor:
    """Codes of `bits` each, the lowest first, out of the last dimension's words of 32 bits.

    words: (..., n) int32 or uint32 -> (..., n * 32 / bits) int32, from 0.
    """
    places = torch.arange(0, WORD, bits, dtype=torch.int32, device="cpu")
    codes = (words.view(torch.int32)[..., None] >> places) & ((1 << bits) - 1)
    return codes.flatten(-2)


def by_group(numbers: Tensor, size: int, count: int) -> Tensor:
    """(rows, groups) repeated for each of `count` columns in groups of `size`: (rows, count)."""
    return numbers.repeat_interleave(size, 1)[:, :count]
