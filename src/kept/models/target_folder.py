"""Which folder a checkpoint may be written to, and which may be replaced by one.

What is replaced is gone, so it has to be a checkpoint and nothing else: one file that no checkpoint
has, and the folder stays as it is.
"""

from __future__ import annotations

import os
from fnmatch import fnmatch
from pathlib import Path

from kept.errors import CheckpointError, OptionError
from kept.models.hub import DESCRIPTIONS

_WEIGHTS = "*.safetensors"
# What lies beside weights and descriptions in the folders that the hub gives out.
_BESIDE = ("*.md", "README*", "LICENSE*", "LICENCE*", "NOTICE*", ".gitattributes")


def find_target(target: str | Path, source: Path, *, force: bool) -> Path:
    """The folder to write, absolute; it is not there, or empty, or (with `force`) a checkpoint.

    source: the checkpoint to be read, which is never written to. Raises OptionError for a target
    that is not to be written, CheckpointError for one that cannot be looked at.
    """
    if not isinstance(target, str | Path):
        raise OptionError(
            f"the folder to write is named by {target!r}, a {type(target).__name__}; pass a path"
        )
    if not str(target).strip():
        raise OptionError("the name of the folder to write is empty; name a folder to write to")
    try:
        place = Path(target).expanduser().resolve()
        _refuse_unfit(place, source.resolve(), target)
        held = sorted(place.iterdir()) if place.is_dir() else []
        if held and not force:
            raise OptionError(
                f"{target} is not empty (it holds {held[0].name}); name another folder, or pass "
                "force (--force) to replace it"
            )
        refuse_strange(target, held)
    except OptionError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # a user nobody has, a name with NUL in it
        reason = error.strerror if isinstance(error, OSError) else None
        raise CheckpointError(
            f"{str(target)!r} cannot be looked at: {reason or error}; name another folder"
        ) from error
    return place


def _refuse_unfit(place: Path, origin: Path, target: str | Path) -> None:
    """Raise OptionError for a place that is no folder of its own, whatever it holds."""
    for what, found in (
        ("is the checkpoint itself", place == origin),
        ("holds the checkpoint itself", place in origin.parents),
        ("is the current directory", place == Path.cwd()),
        ("is the home directory", place == Path(os.path.expanduser("~")).resolve()),
        ("is a whole file system", os.path.ismount(place)),
    ):
        if found:
            raise OptionError(f"{target} {what}; name another folder to write to")
    if not place.parent.is_dir():
        raise OptionError(f"{target} lies in a folder that does not exist; make {place.parent}")
    if place.exists() and not place.is_dir():
        raise OptionError(f"{target} is a file; name a folder to write to")


def refuse_strange(target: str | Path, held: list[Path]) -> None:
    """Raise OptionError unless all that a folder holds is a checkpoint, or nothing."""
    names = {path.name for path in held if path.is_file()}
    known = (_WEIGHTS, *DESCRIPTIONS, *_BESIDE)
    for path in held:
        if path.name not in names or not any(fnmatch(path.name, pattern) for pattern in known):
            what = f"the folder {path.name}" if path.is_dir() else path.name
            raise OptionError(
                f"{target} holds {what}, which no checkpoint does, so it is not replaced; "
                "name another folder, or remove it yourself"
            )
    weights = any(fnmatch(name, _WEIGHTS) for name in names)
    if held and not ("config.json" in names and weights):
        lacking = "weights (*.safetensors)" if "config.json" in names else "config.json"
        raise OptionError(
            f"{target} is no checkpoint, as it holds no {lacking}, so it is not replaced; "
            "name another folder, or remove it yourself"
        )
