"""Opening a checkpoint: its JSON files and the index of its tensors, no tensor data yet.

A checkpoint is an ordinary Hugging Face folder: config.json beside model.safetensors, or beside
model.safetensors.index.json and the shards it names. Only JSON and safetensors are ever read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kept.errors import CheckpointError, UnsupportedFormatError, WeightsError
from kept.json_file import read_json_object
from kept.models.dtypes import DTYPES
from kept.models.folder import find_folder
from kept.models.safetensors_file import SafetensorsFile, TensorInfo
from kept.models.weight_files import INDEX, all_tensors, open_weight_files
from kept.sampling import GENERATION_CONFIG, settings_of_model_config

QUANTIZATION = "kept_quantization"  # config.json's entry of a folder that kept has quantized
# Not model.safetensors, in which transformers would look in vain for every weight.
PACKED_WEIGHTS = "kept.safetensors"
QUANTIZE_AGAIN = "quantize the original checkpoint again with `kept quantize`"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_EXPORTED = (".gguf", ".onnx", ".h5", ".msgpack", ".npz", ".tflite")
# What a training run leaves in its folder under those endings, none of them weights.
_NOT_WEIGHTS = ("training_args.", "optimizer.", "scheduler.", "rng_state", "scaler.")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model's folder: its configuration, and its tensors by name, read on demand.

    `tensors` is in the order of the files and of the data within each, the cheapest to read in.
    `generation_config` is what `generation_source` says: generation_config.json, or the settings
    that config.json holds where there is none, as old ones do.
    """

    folder: Path
    config: Mapping[str, Any] = field(repr=False)
    generation_config: Mapping[str, Any] = field(repr=False)
    tensors: Mapping[str, TensorInfo] = field(repr=False)
    files: Mapping[Path, SafetensorsFile] = field(repr=False)
    generation_source: str = GENERATION_CONFIG

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
        if name not in self.tensors:
            raise WeightsError(f"{self.folder} holds no tensor named {name!r}.")
        return self.files[self.tensors[name].file].read(name)

    def close(self) -> None:
        """Drop the mappings of all files, and with them the memory their pages took.

        The next `read` maps its file again; tensors that are still held stay valid.
        """
        for file in self.files.values():
            file.close()


def open_checkpoint(
    source: str | Path | None, *, revision: str | None = None, progress: bool = True
) -> Checkpoint:
    """Open the checkpoint `source`: a folder, a hub id, or None for the bundled model.

    A `Path`, an existing folder, or a string that looks like a path is a folder; any other string
    is a hub id, fetched at `revision` (branch, tag or commit) with a bar if `progress`.

    Raises `CheckpointNotFoundError` where it or one of its files is missing,
    `UnsupportedFormatError` for quantized weights or weights that are not safetensors,
    `WeightsError` for weights that are damaged or contradict their index, `CheckpointError` for
    broken JSON, and `OptionError` for a `revision` of something that is not on the hub.
    """
    folder, repo_id = find_folder(source, revision=revision, progress=progress)
    return _open_folder(folder, repo_id)


def _open_folder(folder: Path, repo_id: str | None) -> Checkpoint:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error.strerror}.") from error
    _refuse_other_formats(folder, names)
    config = read_json_object(folder / "config.json", CheckpointError)
    _refuse_quantized(folder, config)
    source = GENERATION_CONFIG if GENERATION_CONFIG in names else "config.json"
    generation_config: Mapping[str, Any] = settings_of_model_config(config)
    if source == GENERATION_CONFIG:
        generation_config = read_json_object(folder / source, CheckpointError)
    if QUANTIZATION in config:
        if not isinstance(config[QUANTIZATION], Mapping):
            raise CheckpointError(
                f"{folder / 'config.json'}: {QUANTIZATION} must be an object, and is "
                f"{config[QUANTIZATION]!r:.100}; take it out, or {QUANTIZE_AGAIN}"
            )
        files = [SafetensorsFile(folder / PACKED_WEIGHTS, QUANTIZE_AGAIN)]
    else:
        files = open_weight_files(folder, names, repo_id)
        _refuse_packed(files)
    tensors = all_tensors(files)
    return Checkpoint(
        folder, config, generation_config, tensors, {file.path: file for file in files}, source
    )


def _refuse_other_formats(folder: Path, names: list[str]) -> None:
    if "adapter_config.json" in names:
        raise UnsupportedFormatError(
            f"{folder / 'adapter_config.json'} marks a PEFT adapter, which kept does not apply. "
            "Merge it into its base model (peft's `merge_and_unload`, then `save_pretrained`)."
        )
    if any(name.endswith(".safetensors") for name in names) or INDEX in names:
        return
    for name in names:
        if name.startswith(_NOT_WEIGHTS):
            continue
        if name.endswith(_PICKLED):
            raise UnsupportedFormatError(
                f"{folder / name} is pickled, and opening a pickle can run any code it carries, so "
                "kept reads safetensors only. Where you trust it, convert it with transformers: "
                "`AutoModelForCausalLM.from_pretrained(folder)"
                ".save_pretrained(new_folder, safe_serialization=True)`."
            )
        if name.endswith(_EXPORTED):
            raise UnsupportedFormatError(
                f"{folder / name} is in a format kept does not read; it reads safetensors only. "
                "Load the safetensors checkpoint it was exported from, or convert it with "
                "transformers: `save_pretrained(new_folder, safe_serialization=True)`."
            )


def _refuse_quantized(folder: Path, config: Mapping[str, Any]) -> None:
    quantization = config.get("quantization_config")
    if quantization is None:
        return
    method = quantization.get("quant_method") if isinstance(quantization, Mapping) else None
    raise UnsupportedFormatError(
        f"{folder / 'config.json'}: quantization_config says the weights are quantized "
        f"(quant_method {method!r}), which kept cannot read. Load an unquantized checkpoint of the "
        "model (float32, float16 or bfloat16)."
    )


def _refuse_packed(files: list[SafetensorsFile]) -> None:
    for file in files:
        if QUANTIZATION in file.metadata:
            raise UnsupportedFormatError(
                f"{file.path} holds weights that `kept quantize` packed, and config.json beside it "
                f"has no {QUANTIZATION}. Put back the config.json that was written with it."
            )
