"""A checkpoint: what describes it, and the index of its tensors, which are read when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from kept.errors import WeightsError
from kept.gguf import GGUFHeader
from kept.models.dtypes import DTYPES
from kept.models.safetensors_file import TensorInfo
from kept.ops.blocks import CodedMatrix
from kept.ops.quantize import QuantizedMatrix
from kept.options import GENERATION_CONFIG

QUANTIZATION = "kept_quantization"  # config.json's entry of a folder that kept has quantized
# Not model.safetensors, in which transformers would look in vain for every weight.
PACKED_WEIGHTS = "kept.safetensors"
QUANTIZE_AGAIN = "quantize the original checkpoint again with `kept quantize`"


class WeightFile(Protocol):
    """A file of tensors; see `SafetensorsFile` for what its parts are."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The header's own."""

    def read(self, name: str) -> Tensor:
        """A tensor in its stored dtype."""

    def pieces(self, name: str) -> Iterator[tuple[slice, Tensor]]:
        """The same, some rows after the other."""

    def codes(self, name: str) -> QuantizedMatrix | None:
        """Kept's own codes of a matrix that is stored as such."""

    def coded_as(self, name: str) -> str | None:
        """The format of panels that hold a matrix as it is stored."""

    def coded(self, name: str) -> CodedMatrix | None:
        """Such a matrix as it is."""

    def close(self) -> None:
        """Let go of what reading has taken."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model's folder: its configuration, and its tensors by name, read on demand.

    folder: or the GGUF file that is all of it.
    `tensors` is in the order of the files and of the data within each, the cheapest to read in.
    `generation_config` is what `generation_source` says: generation_config.json, or the settings
    that config.json holds where there is none, as old ones do. `stored_as` names what
    others have made of the matrices, as the blocks of a GGUF file, None for plain numbers.
    header: of a GGUF file, which also holds the tokenizer.
    """

    folder: Path
    config: Mapping[str, Any] = field(repr=False)
    generation_config: Mapping[str, Any] = field(repr=False)
    tensors: Mapping[str, TensorInfo] = field(repr=False)
    files: Mapping[Path, WeightFile] = field(repr=False)
    generation_source: str = GENERATION_CONFIG
    stored_as: str | None = None
    header: GGUFHeader | None = field(default=None, repr=False)

    @property
    def stored_dtype(self) -> torch.dtype:
        """What the weights are loaded in where nobody says: the first tensor's dtype.

        float32 where kept computes in none of the stored ones.
        """
        stored = (info.dtype for info in self.tensors.values())
        return next((dtype for dtype in stored if dtype in DTYPES.values()), torch.float32)

    def read(self, name: str) -> Tensor:
        """Return tensor `name` in its stored dtype, memory-mapped on the CPU.

        Raises `WeightsError` where there is no such tensor or its file cannot be read.
        """
        return self._file_of(name).read(name)

    def pieces(self, name: str) -> Iterator[tuple[slice, Tensor]]:
        """Rows of tensor `name` and their numbers in the stored dtype, until all are there.

        A piece may lie in memory that the next one is read into. Raises as `read`.
        """
        return self._file_of(name).pieces(name)

    def codes(self, name: str) -> QuantizedMatrix | None:
        """The codes that matrix `name` is stored as, None where they are not kept's own.

        Raises as `read`.
        """
        return self._file_of(name).codes(name)

    def _file_of(self, name: str) -> WeightFile:
        if name not in self.tensors:
            raise WeightsError(f"{self.folder} holds no tensor named {name!r}.")
        return self.files[self.tensors[name].file]

    def coded_as(self, name: str) -> str | None:
        """The format of panels that hold matrix `name` as it is stored: "mxfp4", "q8_0" or "q4_0".

        None for any other tensor.
        """
        return self._file_of(name).coded_as(name)

    def coded(self, name: str) -> CodedMatrix | None:
        """Matrix `name` as it is stored, where `coded_as` names a format; None for any other."""
        return self._file_of(name).coded(name)

    def close(self) -> None:
        """Drop the mappings of all files, and with them the memory their pages took.

        The next `read` maps its file again; tensors that are still held stay valid.
        """
        for file in self.files.values():
            file.close()
