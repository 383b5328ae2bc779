"""How others have quantized a checkpoint, by what its config.json says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from kept.errors import UnsupportedFormatError
from kept.models.codes_bnb import find_bnb
from kept.models.codes_compressed import find_compressed
from kept.models.codes_fp8 import find_fp8
from kept.models.codes_gptq import find_awq, find_gptq
from kept.models.codes_mlx import find_mlx
from kept.models.fields import Fields
from kept.models.foreign_codes import Coded, CodedFile
from kept.models.safetensors_file import SafetensorsFile, TensorInfo

Tensors = Mapping[str, TensorInfo]
Find = Callable[[Tensors, Fields], dict[str, Coded]]

METHOD_ENTRY, MLX_ENTRY = "quantization_config", "quantization"
_FINDS: Mapping[str, tuple[str, Find]] = {
    "awq": ("AWQ", find_awq),
    "compressed-tensors": ("compressed-tensors", find_compressed),
    "fbgemm_fp8": ("8-bit floats", find_fp8),
    "fp8": ("8-bit floats", find_fp8),
    "gptq": ("GPTQ", find_gptq),
}


@dataclass(frozen=True, slots=True)
class Scheme:
    """A way to quantize, as one checkpoint uses it. name: for people."""

    name: str
    find: Callable[[Tensors, Callable[[str], Tensor]], dict[str, Coded]]

    def open(self, files: list[SafetensorsFile]) -> tuple[CodedFile, str | None]:
        """The files' tensors with matrices put together, and what those are stored as.

        Raises UnsupportedFormatError and WeightsError for what cannot be put together.
        """
        of = {name: file for file in files for name in file.tensors}
        tensors = {name: file.tensors[name] for name, file in of.items()}
        coded = self.find(tensors, lambda name: of[name].read(name))
        file = CodedFile(files, coded)
        if not coded:
            return file, None
        weights = sum(each.shape[0] * each.shape[1] for each in coded.values())
        size = sum(file.tensors[name].num_bytes for name in coded)
        return file, f"{self.name} ({8 * size / weights:.1f} bits a weight)"


def find_scheme(
    folder: Path, config: Mapping[str, Any], own: tuple[str, ...] = ()
) -> Scheme | None:
    """The scheme of a checkpoint, None where its config.json names none.

    own: methods that the model's family reads by itself. Raises UnsupportedFormatError for one that
    kept does not read.
    """
    where = f"{folder / 'config.json'}: {METHOD_ENTRY}"
    entry = config.get(METHOD_ENTRY)
    if entry is None:
        return _mlx(folder, config.get(MLX_ENTRY))
    fields = Fields(entry if isinstance(entry, Mapping) else {}, where)
    method = entry.get("quant_method") if isinstance(entry, Mapping) else None
    if method in own:
        return None
    if method == "bitsandbytes":
        return Scheme("bitsandbytes", find_bnb)
    if not isinstance(method, str) or method not in _FINDS:
        known = ", ".join(sorted([*_FINDS, "bitsandbytes"]))
        raise UnsupportedFormatError(
            f"{where} says the weights are quantized (quant_method {method!r:.100}), and kept "
            f"reads {known} and MLX's. Load a checkpoint of one of these, or an unquantized one, "
            "which kept quantizes itself: quantize='int4'."
        )
    name, find = _FINDS[method]
    return Scheme(name, lambda tensors, _: find(tensors, fields))


def _mlx(folder: Path, entry: Any) -> Scheme | None:
    if not isinstance(entry, Mapping) or "bits" not in entry:
        return None
    fields = Fields(entry, f"{folder / 'config.json'}: {MLX_ENTRY}")
    return Scheme("MLX", lambda tensors, _: find_mlx(tensors, fields))
