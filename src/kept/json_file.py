"""Reading the text and JSON files of a checkpoint."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, Final

from kept.errors import CheckpointError, CheckpointNotFoundError

MAX_BYTES: Final = 16 << 20  # configurations with thousands of added tokens have some megabytes


def read_text(path: Path, error: type[CheckpointError], *, max_bytes: int = MAX_BYTES) -> str:
    """Return the UTF-8 text that `path` holds.

    Raises `CheckpointNotFoundError` where there is no such file, and `error` where it cannot be
    read, is not UTF-8, or is anything but a regular file of at most `max_bytes`.
    """
    try:
        return _read_bytes(path, error, max_bytes).decode("utf-8")
    except UnicodeDecodeError as cause:
        raise error(
            f"{path} is not UTF-8 text: byte {cause.start} of {len(cause.object)} is wrong. "
            "The file is damaged; download it again."
        ) from cause


def check_regular(
    path: Path, error: type[CheckpointError], *, max_bytes: int | None = None
) -> None:
    """Raise as `read_text` does before it reads, for files that others read."""
    try:
        _check(path, path.stat(), error, max_bytes)
    except OSError as cause:
        raise _unreadable(path, error, cause) from cause


def _read_bytes(path: Path, error: type[CheckpointError], max_bytes: int) -> bytes:
    try:
        _check(path, path.stat(), error, max_bytes)
        # What was a file may be a pipe by now, and to open one waits for somebody who writes to it.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            _check(path, os.fstat(handle), error, max_bytes)
            with open(handle, "rb", closefd=False) as file:
                found = file.read(max_bytes + 1)
        finally:
            os.close(handle)
    except OSError as cause:
        raise _unreadable(path, error, cause) from cause
    if len(found) > max_bytes:
        raise _too_large(path, error, len(found), max_bytes)
    return found


def _check(
    path: Path, found: os.stat_result, error: type[CheckpointError], max_bytes: int | None
) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise error(f"{path} is {_kind(found.st_mode)}, not a file; put the file itself there.")
    if max_bytes is not None and found.st_size > max_bytes:
        raise _too_large(path, error, found.st_size, max_bytes)


def _too_large(
    path: Path, error: type[CheckpointError], size: int, max_bytes: int
) -> CheckpointError:
    return error(
        f"{path} has {size:,} bytes, and the limit is {max_bytes:,}, which is far above any that "
        "is used. The file is damaged, or another; download it again."
    )


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
    )
    return next((name for found, name in kinds if found(mode)), "a device")


def _unreadable(path: Path, error: type[CheckpointError], cause: OSError) -> CheckpointError:
    if isinstance(cause, CheckpointError):
        return cause
    if isinstance(cause, FileNotFoundError):
        return CheckpointNotFoundError(
            f"{path} is not there. A checkpoint is a folder with config.json, safetensors weights "
            "and tokenizer.json; is this one complete?"
        )
    return error(f"{path} cannot be read: {cause.strerror}.")


def read_json_object(
    path: Path,
    error: type[CheckpointError],
    *,
    optional: bool = False,
    max_bytes: int = MAX_BYTES,
) -> dict[str, Any]:
    """Return the JSON object that `path` holds; where it is `optional` and not there, {}.

    Raises as `read_text`, and `error` where the text is not JSON or is not an object.
    """
    if optional and not os.path.lexists(path):
        return {}
    text = read_text(path, error, max_bytes=max_bytes)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as cause:
        raise error(
            f"{path} is not valid JSON: {cause.msg} at line {cause.lineno}, column {cause.colno}. "
            "Correct it or download it again."
        ) from cause
    except (RecursionError, ValueError) as cause:
        deep = isinstance(cause, RecursionError)
        what = "is nested too deeply" if deep else "holds a number of thousands of digits"
        raise error(
            f"{path} cannot be read: it {what}. Correct it or download it again."
        ) from cause
    if not isinstance(value, dict):
        raise error(
            f"{path} must hold a JSON object ({{...}}), and holds a {type(value).__name__}. "
            "Download it again."
        )
    return value
