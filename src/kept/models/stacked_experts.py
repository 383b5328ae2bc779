"""Checkpoints that hold a matrix of all experts of a layer in one tensor, read expert by expert.

    mlp.experts.gate_up_proj   (X, 2 F, E)        as transformers 5 holds them: gates, then ups
                               (X, E, 2 F)        gpt-oss: turned, and gates and ups alternate
    mlp.experts.down_proj      (X, E, F)          gpt-oss: (X, F, E)
    ..._bias                   (X, 2 F), (X, E)   gpt-oss
    ..._blocks, ..._scales     in place of the matrices, MXFP4 (ops/mxfp4.py); never turned

What is read of them bears the names that a checkpoint has which holds each expert's matrices apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kept.errors import WeightsError
from kept.models.fields import MAX_EXPERTS
from kept.models.safetensors_file import SafetensorsFile, TensorInfo
from kept.ops.mxfp4 import BLOCK, Mxfp4Matrix

_BYTES = BLOCK // 2  # of a block
_STACKED = re.compile(
    r"(?P<layer>.*)\.mlp\.experts\.(?P<what>gate_up_proj|down_proj)(?P<kind>_bias|_blocks|)$"
)


@dataclass(frozen=True, slots=True)
class ExpertNames:
    """How a family's checkpoints name the parts of a layer that holds experts.

    home: what they are under. parts: gate, up and down of an expert. turned: stacked matrices are
    (in, out), and gates and ups alternate in them.
    """

    home: str = "mlp"
    parts: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    turned: bool = False


@dataclass(frozen=True, slots=True)
class _Slice:
    """Rows of one expert's matrix. blocks: they are in MXFP4."""

    stored: str
    expert: int
    rows: slice
    turned: bool
    blocks: bool

    def of(self, tensor: Tensor) -> Tensor:
        """These rows of a stored tensor, which is not copied."""
        own = tensor[self.expert]
        return (own.T if self.turned else own)[self.rows]


class StackedFiles:
    """Files of a checkpoint whose experts are stacked, as if each stood apart.

    tensors: by name, those of the files that are no stacked ones among them.
    """

    def __init__(
        self,
        tensors: Mapping[str, TensorInfo],
        files: Mapping[Path, SafetensorsFile],
        names: ExpertNames,
    ) -> None:
        self._files, self._names = files, names
        self._stored, self._slices = tensors, dict[str, _Slice]()
        self.tensors: dict[str, TensorInfo] = {}
        for name, info in tensors.items():
            found = _STACKED.fullmatch(name)
            if found is None:
                self._put(self._renamed(name), info)
            else:
                self._check(name, info, found["kind"])
                self._add(name, info, found)
        for each in self._slices.values():
            if each.blocks:
                self.tensors.pop(_scales(each.stored), None)

    @property
    def metadata(self) -> Mapping[str, str]:
        """Nothing that matters."""
        return {}

    def read(self, name: str) -> Tensor:
        """A tensor in its stored dtype; of MXFP4 the numbers it stands for, bf16."""
        found = self._slices.get(name)
        if found is None:
            return self._read(self._stored_name(name))
        if found.blocks:
            return self._coded(found).numbers(torch.bfloat16)
        return found.of(self._read(found.stored))

    def pieces(self, name: str) -> Iterator[tuple[slice, Tensor]]:
        """All rows of it at once."""
        found = self.read(name)
        yield slice(0, len(found)), found

    def coded_as(self, name: str) -> str | None:
        """The format of panels that hold a matrix as it is stored; None for any other tensor."""
        found = self._slices.get(name)
        return "mxfp4" if found is not None and found.blocks else None

    def coded(self, name: str) -> Mxfp4Matrix | None:
        """A matrix that is stored in MXFP4, as it is; None for any other tensor."""
        found = self._slices.get(name)
        return self._coded(found) if found is not None and found.blocks else None

    def codes(self, name: str) -> None:
        """Nothing: no matrix is in one of kept's own formats."""

    def close(self) -> None:
        """Drop the mappings of all files."""
        for file in self._files.values():
            file.close()

    def _coded(self, of: _Slice) -> Mxfp4Matrix:
        blocks, scales = self._read(of.stored), self._read(_scales(of.stored))
        return Mxfp4Matrix.of(of.of(blocks), of.of(scales))

    def _read(self, stored: str) -> Tensor:
        return self._files[self._stored[stored].file].read(stored)

    def _renamed(self, name: str) -> str:
        """transformers 5 keeps a router where it has the experts."""
        home = self._names.home
        return re.sub(r"\.mlp\.(?=gate\.weight$)", f".{home}.", name)

    def _stored_name(self, name: str) -> str:
        if name in self._stored:
            return name
        return name.replace(f".{self._names.home}.", ".mlp.")

    def _check(self, name: str, info: TensorInfo, kind: str) -> None:
        """Raise WeightsError for a tensor that cannot be the matrices or biases of experts."""
        shape, sizes = info.shape, {"": 3, "_bias": 2, "_blocks": 4}[kind]
        if len(shape) != sizes or 0 in shape or shape[0] > MAX_EXPERTS:
            raise WeightsError(
                f"{info.file}: {name!r} is {shape}, and what stacks experts has {sizes} dimensions "
                f"of at least 1, the first of up to {MAX_EXPERTS:,}; download the checkpoint again"
            )
        if kind != "_blocks":
            return
        scales = self._stored.get(_scales(name))
        found = None if scales is None else (scales.dtype, scales.shape)
        if (info.dtype, found) != (torch.uint8, (torch.uint8, shape[:-1])) or shape[-1] != _BYTES:
            beside = "none" if scales is None else f"{_spelled(scales.dtype)} {scales.shape}"
            raise WeightsError(
                f"{info.file}: {name!r} is {_spelled(info.dtype)} {shape} and its scales are "
                f"{beside}; in MXFP4 they are uint8 {(*shape[:-1], _BYTES)} and {shape[:-1]}: "
                "download the checkpoint again"
            )

    def _put(self, name: str, info: TensorInfo) -> None:
        if name in self.tensors:
            raise WeightsError(
                f"{info.file}: {name!r} is stored by itself and among stacked experts; save the "
                "checkpoint again with one of them"
            )
        self.tensors[name] = info

    def _add(self, stored: str, info: TensorInfo, found: re.Match[str]) -> None:
        layer, what, kind = found["layer"], found["what"], found["kind"]
        gate, up, down = self._names.parts
        blocks, turned = kind == "_blocks", self._names.turned
        # Of one expert, as it is to be read.
        shape = info.shape[1:]
        if blocks:
            shape = shape[0], BLOCK * shape[1]
        elif turned and len(shape) == 2:
            shape = shape[::-1]
        half = shape[0] // 2
        if what == "down_proj":
            rows = {down: slice(0, shape[0])}
        elif turned:
            rows = {gate: slice(0, shape[0], 2), up: slice(1, shape[0], 2)}
        else:
            rows = {gate: slice(0, half), up: slice(half, shape[0])}
        dtype = torch.bfloat16 if blocks else info.dtype
        for expert in range(info.shape[0]):
            for part, own in rows.items():
                leaf = "bias" if kind == "_bias" else "weight"
                name = f"{layer}.{self._names.home}.experts.{expert}.{part}.{leaf}"
                count = len(range(*own.indices(shape[0])))
                size = info.num_bytes // info.shape[0] * count // shape[0]
                is_turned = turned and not blocks and len(shape) == 2
                self._slices[name] = _Slice(stored, expert, own, is_turned, blocks)
                start = None
                if info.start is not None and not turned and not blocks:
                    first = expert * shape[0] + own.start
                    start = info.start + first * info.num_bytes // (info.shape[0] * shape[0])
                self._put(name, TensorInfo(info.file, dtype, (count, *shape[1:]), size, start))


def unstacked(
    tensors: Mapping[str, TensorInfo], files: Mapping[Path, SafetensorsFile], names: ExpertNames
) -> StackedFiles | None:
    """A checkpoint's files with each expert apart, or None where that is how they are stored."""
    if not any(_STACKED.fullmatch(name) for name in tensors):
        return None
    return StackedFiles(tensors, files, names)


def _spelled(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _scales(blocks: str) -> str:
    return f"{blocks.removesuffix('_blocks')}_scales"
