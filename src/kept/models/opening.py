"""Opening a checkpoint: what describes it and the index of its tensors, no tensor data yet.

A checkpoint is an ordinary Hugging Face folder: config.json beside model.safetensors, or beside
model.safetensors.index.json and the shards it names; or it is a GGUF file, which holds all of that.
Nothing else is ever read, and nothing that a file holds is run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kept.errors import CheckpointError, UnsupportedFormatError
from kept.gguf import is_gguf
from kept.json_file import read_json_object
from kept.models import hub
from kept.models.checkpoint import (
    PACKED_WEIGHTS,
    QUANTIZATION,
    QUANTIZE_AGAIN,
    Checkpoint,
    WeightFile,
)
from kept.models.family import Family
from kept.models.folder import find_folder
from kept.models.foreign_formats import (
    refuse_gguf_alone,
    refuse_other_files,
    refuse_quantized_tensors,
)
from kept.models.foreign_schemes import METHOD_ENTRY, MLX_ENTRY, Scheme, find_scheme
from kept.models.gguf_checkpoint import GGUFModel, open_gguf
from kept.models.registry import find_family
from kept.models.safetensors_file import SafetensorsFile, TensorInfo
from kept.models.stacked_experts import unstacked
from kept.models.weight_files import all_tensors, fetch_weights, open_weight_files
from kept.options import GENERATION_CONFIG
from kept.sampling import settings_of_model_config

_COMMIT = re.compile("[0-9a-f]{40}")  # how the hub's cache names the folder of one


def open_checkpoint(
    source: str | Path | None, *, revision: str | None = None, progress: bool = True
) -> Checkpoint:
    """Open the checkpoint `source`: a folder, a GGUF file, a hub id, or None for the bundled model.

    A `Path`, an existing folder or file, or a string that looks like a path is that; any other
    string is a hub id, fetched at `revision` (branch, tag or commit) with a bar if `progress`:
    first what describes the model, and its weights once that shows nothing to refuse.

    Raises `CheckpointNotFoundError` where it or one of its files is missing,
    `UnsupportedModelError` for a family or feature kept does not run,
    `UnsupportedFormatError` for quantized weights or weights that are not safetensors,
    `WeightsError` for weights that are damaged or contradict their index, `CheckpointError` for
    broken JSON, and `OptionError` for a `revision` of something that is not on the hub.
    """
    folder, repo_id = find_folder(source, revision=revision, progress=progress, weights=False)
    if is_gguf(folder):
        return _open_gguf(folder)
    described = _read_described(folder, repo_id, revision)
    if repo_id is not None:
        commit = folder.name if _COMMIT.fullmatch(folder.name) else None
        folder = fetch_weights(
            folder, described.names, repo_id, revision=revision, commit=commit, progress=progress
        )
        described = replace(described, folder=folder, names=_names(folder))
    return _open_folder(described, repo_id)


def _open_gguf(path: Path) -> Checkpoint:
    return gguf_checkpoint(path, open_gguf(path))


def gguf_checkpoint(path: Path, found: GGUFModel) -> Checkpoint:
    """The checkpoint of a GGUF file whose header is known; the file need not be there yet."""
    return Checkpoint(
        path,
        found.config,
        found.generation_config,
        found.weights.tensors,
        dict.fromkeys(found.weights.paths, found.weights),
        f"the metadata of {path.name}",
        found.stored_as,
        found.weights.header,
    )


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error.strerror}.") from error


@dataclass(frozen=True, slots=True)
class _Described:
    """What a folder says of itself: the names of its files, and what follows from config.json.

    scheme: how others have quantized it, None where they have not.
    """

    folder: Path
    names: list[str]
    config: Mapping[str, Any]
    family: Family
    scheme: Scheme | None


def _read_described(folder: Path, repo_id: str | None, revision: str | None) -> _Described:
    """A folder's names and config.json, once all is refused that they alone decide.

    What cannot be mended is refused first: the family, then a quantization, then the files.
    """
    names = _names(folder)
    if "config.json" not in names:
        _refuse_adapter(folder, names)
        refuse_other_files(folder, names, None)
        if repo_id is not None:
            refuse_gguf_alone(repo_id, hub.list_files(repo_id, revision))
    config = read_json_object(folder / "config.json", CheckpointError)
    family = find_family(config)
    family.read_config(dict(config))
    scheme = find_scheme(folder, config, family.quantized_as)
    _refuse_adapter(folder, names)
    refuse_other_files(folder, names, family.architecture)
    return _Described(folder, names, config, family, scheme)


def _open_folder(described: _Described, repo_id: str | None) -> Checkpoint:
    folder, names, config = described.folder, described.names, described.config
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
        packed = SafetensorsFile(folder / PACKED_WEIGHTS, QUANTIZE_AGAIN)
        files: Mapping[Path, WeightFile] = {packed.path: packed}
        return Checkpoint(folder, config, generation_config, packed.tensors, files, source)
    opened = open_weight_files(folder, names, repo_id)
    _refuse_packed(opened)
    if described.scheme is not None:
        return _open_coded(folder, config, generation_config, opened, described.scheme, source)
    tensors, files = _laid_out(described.family, opened)
    refuse_quantized_tensors(folder, tensors)
    return Checkpoint(folder, config, generation_config, tensors, files, source)


def _laid_out(
    family: Family, files: list[SafetensorsFile]
) -> tuple[Mapping[str, TensorInfo], Mapping[Path, WeightFile]]:
    """The tensors of files by name, and where they are read; of stacked experts each apart."""
    tensors, by_path = all_tensors(files), {file.path: file for file in files}
    names = family.expert_names
    apart = None if names is None else unstacked(tensors, by_path, names)
    if apart is None:
        return tensors, by_path
    return apart.tensors, dict.fromkeys(by_path, apart)


def _open_coded(
    folder: Path,
    config: Mapping[str, Any],
    generation_config: Mapping[str, Any],
    files: list[SafetensorsFile],
    scheme: Scheme,
    source: str,
) -> Checkpoint:
    all_tensors(files)  # raises for a name in two files
    found, stored_as = scheme.open(files)
    refuse_quantized_tensors(folder, found.tensors)
    entries = (METHOD_ENTRY, MLX_ENTRY)
    return Checkpoint(
        folder,
        {name: value for name, value in config.items() if name not in entries},
        generation_config,
        found.tensors,
        dict.fromkeys(found.paths, found),
        source,
        stored_as,
    )


def _refuse_adapter(folder: Path, names: list[str]) -> None:
    if "adapter_config.json" in names:
        raise UnsupportedFormatError(
            f"{folder} holds an adapter, as its adapter_config.json says, which is loaded beside "
            f"the model it was made for: LLM(model, adapters={{'name': {str(folder)!r}}}), or "
            f"--adapter name={folder} on the command line"
        )


def _refuse_packed(files: list[SafetensorsFile]) -> None:
    for file in files:
        if QUANTIZATION in file.metadata:
            raise UnsupportedFormatError(
                f"{file.path} holds weights that `kept quantize` packed, and config.json beside it "
                f"has no {QUANTIZATION}. Put back the config.json that was written with it."
            )
