"""Opening a checkpoint: its JSON files and the index of its tensors, no tensor data yet.

A checkpoint is an ordinary Hugging Face folder: config.json beside model.safetensors, or beside
model.safetensors.index.json and the shards it names. Only JSON and safetensors are ever read.
"""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kept.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    OptionError,
    UnsupportedFormatError,
    WeightsError,
)
from kept.json_file import read_json_object
from kept.models import hub
from kept.models.dtypes import DTYPES
from kept.models.safetensors_file import SafetensorsFile, TensorInfo

QUANTIZATION = "kept_quantization"  # config.json's entry of a folder that kept has quantized
# Not model.safetensors, in which transformers would look in vain for every weight.
PACKED_WEIGHTS = "kept.safetensors"
_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_EXPORTED = (".gguf", ".onnx", ".h5", ".msgpack", ".npz", ".tflite")
# What a training run leaves in its folder under those endings, none of them weights.
_NOT_WEIGHTS = ("training_args.", "optimizer.", "scheduler.", "rng_state", "scaler.")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model's folder: its configuration, and its tensors by name, read on demand.

    `tensors` is in the order of the files and of the data within each, the cheapest to read in.
    """

    folder: Path
    config: Mapping[str, Any] = field(repr=False)
    generation_config: Mapping[str, Any] = field(repr=False)
    tensors: Mapping[str, TensorInfo] = field(repr=False)
    files: Mapping[Path, SafetensorsFile] = field(repr=False)

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


def find_folder(
    source: str | Path | None,
    *,
    revision: str | None = None,
    progress: bool = True,
    weights: bool = True,
) -> tuple[Path, str | None]:
    """Return the folder of `source`, fetched if need be, and its hub id if it is one.

    Without `weights` only a hub model's JSON files and their like are fetched. Raises as
    `open_checkpoint` does for a `source` or `revision` that cannot be had.
    """
    repo_id = None
    if source is None:
        folder = _bundled_folder()
    elif (existing := _existing_folder(source)) is not None:
        folder = existing
    else:
        repo_id = str(source)
        folder = hub.download(repo_id, revision=revision, progress=progress, weights=weights)
    if revision is not None and repo_id is None:
        raise OptionError(
            f"revision={revision!r} is for hub ids only, and {folder} is a folder. Leave it out."
        )
    return folder, repo_id


def _bundled_folder() -> Path:
    folder = importlib.resources.files("kept").joinpath("bundled")
    if isinstance(folder, Path) and (folder / "config.json").is_file():
        return folder
    raise CheckpointNotFoundError(
        f"This installation of kept has no bundled model (looked for config.json in {folder}). "
        "Reinstall kept, or pass a folder or a hub id."
    )


def _existing_folder(source: str | Path) -> Path | None:
    """Return the folder `source` names, or None where it can only be a hub id."""
    if not isinstance(source, str | Path):
        raise OptionError(
            f"the model is named by {source!r}, a {type(source).__name__}; pass a folder, a hub "
            "id, or nothing for the bundled model"
        )
    text = os.fspath(source)
    if not text.strip():
        raise CheckpointNotFoundError(
            "The model's name is empty. Pass a folder, a hub id, or nothing for the bundled model."
        )
    path = os.path.expanduser(text)
    if os.path.isdir(path):
        return Path(path)
    if os.path.isfile(path):
        raise CheckpointNotFoundError(
            f"{text!r} is a file. Pass the folder that holds it, with its config.json and "
            "tokenizer.json beside it."
        )
    separators = tuple(filter(None, (os.sep, os.altsep)))
    path_like = (
        isinstance(source, Path)
        or text.startswith((".", "~", *separators))
        or text.endswith(separators)
        or os.path.isabs(text)
        or text.count("/") > 1
        or "\\" in text
    )
    if path_like:
        raise CheckpointNotFoundError(
            f"There is no folder {text!r} (looked in {os.getcwd()}). "
            "Check the path; a hub id has the form `org/name`."
        )
    return None


def _open_folder(folder: Path, repo_id: str | None) -> Checkpoint:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error.strerror}.") from error
    _refuse_other_formats(folder, names)
    config = read_json_object(folder / "config.json", CheckpointError)
    _refuse_quantized(folder, config)
    generation_config: Mapping[str, Any] = {}
    if "generation_config.json" in names:
        generation_config = read_json_object(folder / "generation_config.json", CheckpointError)
    if QUANTIZATION in config:
        files = [SafetensorsFile(folder / PACKED_WEIGHTS)]
    else:
        files = _open_files(folder, names, repo_id)
        _refuse_packed(files)
    tensors = _all_tensors(files)
    return Checkpoint(
        folder, config, generation_config, tensors, {file.path: file for file in files}
    )


def _refuse_other_formats(folder: Path, names: list[str]) -> None:
    if "adapter_config.json" in names:
        raise UnsupportedFormatError(
            f"{folder / 'adapter_config.json'} marks a PEFT adapter, which kept does not apply. "
            "Merge it into its base model (peft's `merge_and_unload`, then `save_pretrained`)."
        )
    if any(name.endswith(".safetensors") for name in names) or _INDEX in names:
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


def _open_files(folder: Path, names: list[str], repo_id: str | None) -> list[SafetensorsFile]:
    # The order of preference is transformers': the single file, then the index.
    if _SINGLE in names:
        return [SafetensorsFile(folder / _SINGLE)]
    if _INDEX in names:
        return _open_shards(folder)
    found = [name for name in names if name.endswith(".safetensors")]
    if len(found) == 1:
        return [SafetensorsFile(folder / found[0])]
    if found:
        raise WeightsError(
            f"{folder} holds {len(found)} safetensors files ({', '.join(found[:8])}) and no "
            f"{_INDEX} to say how they belong together. Download the index as well."
        )
    if repo_id is not None:
        raise CheckpointNotFoundError(
            f"Hub model {repo_id!r} has no safetensors weights in {folder}. Where its repository "
            "has them, unset HF_HUB_OFFLINE so that they can be fetched; where it only has pickled "
            "weights (.bin, .pt), pick a repository or revision with safetensors."
        )
    raise CheckpointNotFoundError(
        f"{folder} holds no weights: neither {_SINGLE} nor {_INDEX}. Is the download complete?"
    )


def _open_shards(folder: Path) -> list[SafetensorsFile]:
    path = folder / _INDEX
    weight_map = read_json_object(path, CheckpointError).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{path}: weight_map must say which file holds each tensor.")
    for name, shard in weight_map.items():
        # A shard lies beside its index: anything else could lead out of the folder.
        if not isinstance(shard, str) or not shard.endswith(".safetensors") or "\0" in shard:
            raise WeightsError(f"{path}: {name!r} is in {shard!r}, not a .safetensors file.")
        if Path(shard).name != shard or "\\" in shard:
            raise WeightsError(f"{path}: {name!r} is in {shard!r}, outside the folder.")
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not (folder / shard).exists()]
    if missing:
        raise CheckpointNotFoundError(
            f"{path} names {len(shards)} shards, of which {len(missing)} are not there: "
            f"{', '.join(missing[:8])}. Download the checkpoint again."
        )
    files = [SafetensorsFile(folder / shard) for shard in shards]
    _verify_index(path, weight_map, _all_tensors(files))
    return files


def _verify_index(
    path: Path, weight_map: Mapping[str, str], tensors: Mapping[str, TensorInfo]
) -> None:
    held = {name: info.file.name for name, info in tensors.items()}
    for name in sorted(weight_map.keys() | held.keys()):
        said, found = weight_map.get(name), held.get(name)
        if said != found:
            raise WeightsError(
                f"{path} contradicts its shards: it says tensor {name!r} is in "
                f"{said or 'none of them'}, and it is in {found or 'none of them'}. "
                "The files are of different versions; download the checkpoint again."
            )


def _all_tensors(files: list[SafetensorsFile]) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        for name, info in file.tensors.items():
            if name in tensors:
                raise WeightsError(
                    f"Tensor {name!r} is both in {tensors[name].file} and in {file.path.name}. "
                    "The files are of different versions; download the checkpoint again."
                )
            tensors[name] = info
    return tensors
