"""Reading the text and JSON files of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kept.errors import CheckpointError, CheckpointNotFoundError


def read_text(path: Path, error: type[CheckpointError]) -> str:
    """Return the UTF-8 text that `path` holds.

    Raises `CheckpointNotFoundError` where there is no such file, and `error` where it cannot be
    read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as cause:
        raise CheckpointNotFoundError(
            f"{path} is not there. A checkpoint is a folder with config.json, safetensors weights "
            "and tokenizer.json; is this one complete?"
        ) from cause
    except UnicodeDecodeError as cause:
        raise error(
            f"{path} is not UTF-8 text: byte {cause.start} of {len(cause.object)} is wrong. "
            "The file is damaged; download it again."
        ) from cause
    except OSError as cause:
        raise error(f"{path} cannot be read: {cause.strerror}.") from cause


def read_json_object(
    path: Path, error: type[CheckpointError], *, optional: bool = False
) -> dict[str, Any]:
    """Return the JSON object that `path` holds; where it is `optional` and not there, {}.

    Raises as `read_text`, and `error` where the text is not JSON or is not an object.
    """
    if optional and not path.exists():
        return {}
    text = read_text(path, error)
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
