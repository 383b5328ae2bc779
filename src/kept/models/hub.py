"""Fetching a checkpoint from the Hugging Face hub, or from its cache on disk.

huggingface_hub itself honours `HF_HOME`, `HF_TOKEN`, `HF_HUB_OFFLINE` and their like.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import escape
from io import BufferedReader
from pathlib import Path

from kept.errors import CheckpointError, CheckpointNotFoundError

# Weights only ever as safetensors: a pickled file can run code when it is opened.
_WEIGHTS = ["*.safetensors"]
DESCRIPTIONS = ["*.json", "*.jinja", "*.txt", "*.model", "*.spm"]
# Subfolders hold other formats; "consolidated" files repeat the weights under other names.
_BLOCK = 1 << 20  # bytes of a file that are fetched at a time
_IGNORE = ["*/*", "consolidated*"]


def download(
    repo_id: str,
    *,
    revision: str | None = None,
    commit: str | None = None,
    progress: bool = True,
    weights: bool = True,
    names: Sequence[str] | None = None,
) -> Path:
    """Return the folder of `repo_id` in the hub's cache, fetching what is not there yet.

    `revision` is a branch, tag or commit; `commit` what it stands for, where that is known, so that
    a branch that moves between two calls does not mix two of them. `progress` shows
    huggingface_hub's bar; without `weights` only what describes the model is fetched; with `names`
    these files and no other. Raises `CheckpointNotFoundError` where there is no such model,
    revision or permission, or where it is not in the cache and the hub cannot be reached;
    `CheckpointError` for any other failure.
    """
    # Imported here because it is slow to import, and a local folder has no need of it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    patterns = [*_WEIGHTS, *DESCRIPTIONS] if weights else DESCRIPTIONS
    try:
        with _progress_bars(progress):
            folder = snapshot_download(
                repo_id,
                revision=commit or revision,
                allow_patterns=patterns if names is None else [escape(name) for name in names],
                ignore_patterns=_IGNORE if names is None else [],
                library_name="kept",
            )
    except HFValidationError as error:
        raise CheckpointNotFoundError(
            f"{repo_id!r} is neither a folder that exists nor a hub id (`org/name` or `name`). "
            "Check the spelling; write a folder's path as ./folder."
        ) from error
    # huggingface_hub lets its HTTP client's exceptions through, and which client that is has
    # changed between its versions, so only the common ancestor catches them all.
    except Exception as error:
        raise _explained(error, repo_id, revision) from error
    return Path(folder)


def is_cached(repo_id: str, names: Sequence[str], revision: str | None) -> bool:
    """Whether these files are in the hub's cache, or nothing may be fetched beside it."""
    from huggingface_hub import constants, try_to_load_from_cache

    found = (try_to_load_from_cache(repo_id, name, revision=revision) for name in names)
    return constants.HF_HUB_OFFLINE or all(isinstance(path, str) for path in found)


def list_files(repo_id: str, revision: str | None) -> list[str]:
    """The names of a hub model's files; none where it cannot be asked."""
    from huggingface_hub import HfApi

    try:
        return list(HfApi().list_repo_files(repo_id, revision=revision))
    except Exception:  # it is asked for the sake of a better message
        return []


@contextmanager
def open_remote(
    repo_id: str, name: str, revision: str | None
) -> Iterator[tuple[BufferedReader, int]]:
    """A file of `repo_id` that is read over the network, as far as it is read, and its bytes.

    Raises as `download`.
    """
    from huggingface_hub import HfFileSystem

    try:
        with HfFileSystem().open(f"{repo_id}/{name}", revision=revision, block_size=_BLOCK) as file:
            yield BufferedReader(file, _BLOCK), file.size
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointNotFoundError(
            f"Hub model {repo_id!r} has no file {name!r}, or is not there. Its page lists them."
        ) from error
    except Exception as error:
        raise _explained(error, repo_id, revision) from error


@contextmanager
def _progress_bars(shown: bool) -> Iterator[None]:
    from huggingface_hub import constants
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    forced = constants.HF_HUB_DISABLE_PROGRESS_BARS is False  # the environment has the last word
    if shown or forced or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _explained(error: Exception, repo_id: str, revision: str | None) -> CheckpointError:
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    model = f"Hub model {repo_id!r}" + (f" at revision {revision!r}" if revision else "")
    if isinstance(error, GatedRepoError):
        return CheckpointNotFoundError(
            f"{model} is gated. Ask for access on its page at {constants.ENDPOINT}/{repo_id}, "
            "then log in with `hf auth login` or set HF_TOKEN."
        )
    if isinstance(error, RepositoryNotFoundError):
        return CheckpointNotFoundError(
            f"{model} does not exist, or is private. Check the spelling (or pass an existing "
            "folder); for a private model log in with `hf auth login` or set HF_TOKEN."
        )
    if isinstance(error, RevisionNotFoundError):
        return CheckpointNotFoundError(
            f"{model} does not exist: the model is there but the revision is not. "
            "Pass one of its branches, tags or full commit hashes, or none for the newest."
        )
    if constants.HF_HUB_OFFLINE and isinstance(
        error, LocalEntryNotFoundError | OfflineModeIsEnabled
    ):
        return CheckpointNotFoundError(
            f"{model} is not complete in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE "
            "forbids downloading. Unset HF_HUB_OFFLINE, or point HF_HOME at the cache that has it."
        )
    if isinstance(error, LocalEntryNotFoundError):
        return CheckpointNotFoundError(
            f"{model} is not complete in the cache {constants.HF_HUB_CACHE}, and the hub cannot "
            f"be reached ({_reason(error.__cause__ or error)}). Check the network connection, or "
            "pass a folder."
        )
    return CheckpointError(
        f"{model} could not be downloaded ({_reason(error)}). Check the network connection and "
        f"the free space of {constants.HF_HUB_CACHE}, then try again; what was fetched is kept."
    )


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
