"""Finding a checkpoint's folder, or the GGUF file: where a name leads, and what it is not."""

from __future__ import annotations

import importlib.resources
import os
from pathlib import Path

from kept.errors import CheckpointNotFoundError, OptionError
from kept.gguf import is_gguf
from kept.models import hub
from kept.models.gguf_hub import fetch_gguf, split_gguf


def find_folder(
    source: str | Path | None,
    *,
    revision: str | None = None,
    progress: bool = True,
    weights: bool = True,
) -> tuple[Path, str | None]:
    """Return the folder of `source`, fetched if need be, and its hub id if it is one.

    Or the GGUF file that it is, fetched whole. Without `weights` only a hub model's JSON files and
    their like are fetched. Raises as
    `open_checkpoint` does for a `source` or `revision` that cannot be had.
    """
    repo_id = None
    if source is None:
        folder = _bundled_folder()
    elif (existing := _existing_folder(source)) is not None:
        folder = existing
    elif (named := split_gguf(str(source))) is not None:
        return fetch_gguf(*named, revision=revision, progress=progress), None
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
        if is_gguf(Path(path)):
            return Path(path)
        raise CheckpointNotFoundError(
            f"{text!r} is a file. Pass the folder that holds it, with its config.json and "
            "tokenizer.json beside it; of files kept loads those that end in .gguf."
        )
    separators = tuple(filter(None, (os.sep, os.altsep)))
    path_like = (
        isinstance(source, Path)
        or text.startswith((".", "~", *separators))
        or text.endswith(separators)
        or os.path.isabs(text)
        or text.partition(":")[0].count("/") > 1
        or "\\" in text
    )
    if path_like:
        raise CheckpointNotFoundError(
            f"There is no folder {text!r} (looked in {os.getcwd()}). "
            "Check the path; a hub id has the form `org/name`, a GGUF file of one "
            "`org/name:file.gguf`."
        )
    return None
