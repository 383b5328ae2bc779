"""One safetensors file: which tensors it holds, and reading them lazily.

The header is verified when the file is opened. Tensors are then memory-mapped, so nothing is read
before it is used and no copy is made. Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kept.errors import CheckpointNotFoundError, UnsupportedFormatError, WeightsError
from kept.json_file import check_regular

_LENGTH_BYTES = 8  # the header's own length, little-endian, opens the file
_MAX_HEADER_BYTES = 100_000_000  # the format's limit
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
}


@dataclass(frozen=True)
class TensorInfo:
    """Where one stored tensor lies and what it looks like, known without reading its data.

    start: the first byte of its numbers in the file, None where they do not lie there in this dtype
    one behind the other.
    """

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    num_bytes: int
    start: int | None = None


class SafetensorsFile:
    """A safetensors file whose header has been verified.

    `tensors` is in the order of the data, so walking it reads the file front to back; `metadata` is
    the header's own, text by name.

    Raises `CheckpointNotFoundError` where there is no such file, `WeightsError` where it is
    truncated or corrupt, and `UnsupportedFormatError` where a tensor has a dtype torch lacks.
    """

    def __init__(self, path: Path, remedy: str = "download the checkpoint again") -> None:
        """remedy: how to get another such file, for the errors of one that is missing or broken."""
        self.path, self._remedy = path, remedy
        self._handle: Any = None
        handle = self._open()
        try:
            infos = [(name, self._info(handle, name)) for name in handle.offset_keys()]
        except SafetensorError as error:
            raise self._broken(error) from error
        # In the order of their data, between which the format leaves no gap.
        starts = accumulate((info.num_bytes for _, info in infos), initial=self._data_start())
        self.tensors: Mapping[str, TensorInfo] = {
            name: replace(info, start=start)
            for (name, info), start in zip(infos, starts, strict=False)
        }
        self.metadata: Mapping[str, str] = handle.metadata() or {}

    def read(self, name: str) -> Tensor:
        """Return tensor `name` in its stored dtype, memory-mapped on the CPU.

        Raises `WeightsError` where the file no longer holds what its header said.
        """
        handle = self._open()
        try:
            tensor: Tensor = handle.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise self._broken(error) from error
        return tensor

    def pieces(self, name: str) -> Iterator[tuple[slice, Tensor]]:
        """Rows of tensor `name` (of dimension 0) and their numbers: all of them, as mapped.

        Raises as `read`.
        """
        yield slice(None), self.read(name)

    def codes(self, name: str) -> None:
        """Nothing: it holds numbers, and no codes of kept's."""

    def coded_as(self, name: str) -> None:
        """Nothing: none is stored as panels hold it."""

    def coded(self, name: str) -> None:
        """Nothing, as `coded_as`."""

    def close(self) -> None:
        """Drop the file's mapping; a later `read` maps it again.

        Tensors already read stay valid and keep the mapping alive for as long as they live.
        """
        self._handle = None

    def _open(self) -> Any:
        if self._handle is not None:
            return self._handle
        try:
            # Mapping a folder fails too, but with an error that does not say what is wrong.
            check_regular(self.path, WeightsError)
            self._handle = safe_open(str(self.path), framework="pt")
        except FileNotFoundError as error:
            raise CheckpointNotFoundError(
                f"{self.path} is not there, or is a link to a file that is not; {self._remedy}."
            ) from error
        except WeightsError:
            raise
        except (SafetensorError, OSError) as error:
            raise self._broken(error) from error
        return self._handle

    def _data_start(self) -> int:
        try:
            with self.path.open("rb") as file:
                return _LENGTH_BYTES + int.from_bytes(file.read(_LENGTH_BYTES), "little")
        except OSError as error:
            raise self._broken(error) from error

    def _info(self, handle: Any, name: str) -> TensorInfo:
        part = handle.get_slice(name)
        code, shape = part.get_dtype(), tuple(int(size) for size in part.get_shape())
        dtype = DTYPES.get(code)
        if dtype is None:
            raise UnsupportedFormatError(
                f"{self.path}: tensor {name!r} is stored as {code}, which kept cannot read. "
                "Load a checkpoint stored as float32, float16 or bfloat16."
            )
        count = 1
        for size in shape:
            count *= size
        return TensorInfo(self.path, dtype, shape, count * dtype.itemsize)

    def _broken(self, error: Exception) -> WeightsError:
        reason = str(error).removeprefix("Error while deserializing header: ")
        return WeightsError(
            f"{self.path} cannot be read: {_diagnosis(self.path) or reason}. "
            f"Delete it and {self._remedy}."
        )


def _diagnosis(path: Path) -> str | None:
    """Say in bytes what is wrong with a file safetensors refused, or None where that is unclear."""
    try:
        actual = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            rest = file.read(min(length, _MAX_HEADER_BYTES, actual))
    except OSError as error:
        return error.strerror
    if actual == 0:
        return "it is empty (0 bytes)"
    if (length.to_bytes(_LENGTH_BYTES, "little") + rest).startswith(_LFS_POINTER):
        return "it is a Git LFS pointer, not the weights (`git lfs pull` fetches them)"
    if actual < _LENGTH_BYTES:
        return f"it is cut short: expected at least {_LENGTH_BYTES} bytes, found {actual}"
    if length > _MAX_HEADER_BYTES:
        return (
            f"it is not a safetensors file, or its first bytes are damaged: they announce a header "
            f"of {length} bytes, and the limit is {_MAX_HEADER_BYTES}"
        )
    if _LENGTH_BYTES + length > actual:
        return (
            f"it is cut short in the header: expected at least {_LENGTH_BYTES + length} bytes, "
            f"found {actual}"
        )
    return _length_mismatch(rest, actual)


def _length_mismatch(header: bytes, actual: int) -> str | None:
    try:
        entries = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name[:2] != "__"]
        expected = _LENGTH_BYTES + len(header) + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return "its header is damaged, not the JSON a safetensors file starts with"
    if isinstance(expected, int) and expected != actual:
        what = "cut short" if actual < expected else "too long for its header"
        return f"it is {what}: the header describes {expected} bytes, found {actual}"
    return None
