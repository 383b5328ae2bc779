"""Which files of a folder hold the weights: one, or shards and the index that names them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from kept.errors import CheckpointError, CheckpointNotFoundError, WeightsError
from kept.json_file import read_json_object
from kept.models import hub
from kept.models.safetensors_file import SafetensorsFile, TensorInfo

_SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Of an index: those of models in a trillion parameters have 15 MB and 150,000 tensors.
_MAX_INDEX_BYTES, _MAX_TENSORS = 64 << 20, 1 << 18


def fetch_weights(
    folder: Path,
    names: list[str],
    repo_id: str,
    *,
    revision: str | None,
    commit: str | None,
    progress: bool,
) -> Path:
    """Fetch the weights of a hub model whose description lies in `folder`, and return its folder.

    names: of the files there. Of several sets of weights one is fetched: the shards of an index,
    else the single file of the usual name, and all there are only where neither is there. Raises as
    `hub.download`.
    """
    fetch = partial(hub.download, repo_id, revision=revision, commit=commit, progress=progress)
    if INDEX in names and (shards := _shards_of(folder / INDEX)):
        return fetch(names=shards)
    found = fetch(names=[_SINGLE])
    return found if (found / _SINGLE).exists() else fetch()


def _shards_of(index: Path) -> list[str]:
    """The files that an index names; none where it is not what `open_weight_files` reads."""
    weight_map = read_json_object(index, CheckpointError, max_bytes=_MAX_INDEX_BYTES).get(
        "weight_map"
    )
    named = list(weight_map.values()) if isinstance(weight_map, dict) else []
    right = all(isinstance(name, str) and Path(name).name == name for name in named)
    return sorted(set(named)) if right and len(named) <= _MAX_TENSORS else []


def open_weight_files(folder: Path, names: list[str], repo_id: str | None) -> list[SafetensorsFile]:
    """Open the safetensors files among a folder's `names`; repo_id: the hub's, if it is from there.

    Raises `CheckpointNotFoundError` where there are none or some are missing, `WeightsError` where
    they contradict their index, `CheckpointError` where that is broken JSON.
    """
    # The order of preference is transformers': the single file, then the index.
    if _SINGLE in names:
        return [SafetensorsFile(folder / _SINGLE)]
    if INDEX in names:
        return _open_shards(folder)
    found = [name for name in names if name.endswith(".safetensors")]
    if len(found) == 1:
        return [SafetensorsFile(folder / found[0])]
    if found:
        raise WeightsError(
            f"{folder} holds {len(found)} safetensors files ({', '.join(found[:8])}) and no "
            f"{INDEX} to say how they belong together. Download the index as well."
        )
    if repo_id is not None:
        raise CheckpointNotFoundError(
            f"Hub model {repo_id!r} has no safetensors weights in {folder}. Where its repository "
            "has them, unset HF_HUB_OFFLINE so that they can be fetched; where it only has pickled "
            "weights (.bin, .pt), pick a repository or revision with safetensors."
        )
    raise CheckpointNotFoundError(
        f"{folder} holds no weights: neither {_SINGLE} nor {INDEX}. Is the download complete?"
    )


def _open_shards(folder: Path) -> list[SafetensorsFile]:
    path = folder / INDEX
    index = read_json_object(path, CheckpointError, max_bytes=_MAX_INDEX_BYTES)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{path}: weight_map must say which file holds each tensor.")
    if len(weight_map) > _MAX_TENSORS:
        raise WeightsError(
            f"{path}: weight_map names {len(weight_map):,} tensors, and the limit is "
            f"{_MAX_TENSORS:,}, which is far above any model's. Download it again."
        )
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
    _verify_index(path, weight_map, all_tensors(files))
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


def all_tensors(files: list[SafetensorsFile]) -> dict[str, TensorInfo]:
    """The tensors of all files by name. Raises `WeightsError` for a name that is in two of them."""
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
