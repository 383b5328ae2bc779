"""The JSON and text files of a checkpoint folder that describe its text side."""

import json
from pathlib import Path
from typing import Any

from kept.errors import TokenizerError


def read_text(path: Path) -> str:
    """Read a UTF-8 file.

    Raises `TokenizerError` when the file cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(
            f"{path} is not valid UTF-8 ({error.reason} at byte {error.start}); "
            "the file is damaged, copy or download it again"
        ) from error
    except OSError as error:
        raise TokenizerError(f"cannot read {path}: {error.strerror or error}") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object; a file that is not there is an empty object.

    Raises `TokenizerError` naming the file, the line and the column when it is truncated or is not
    JSON, and when it holds something other than an object.
    """
    if not path.exists():
        return {}
    try:
        value = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise TokenizerError(
            f"{path} is not valid JSON (line {error.lineno}, column {error.colno}: {error.msg}); "
            "the file is damaged or truncated, copy or download it again"
        ) from error
    if not isinstance(value, dict):
        raise TokenizerError(
            f"{path} holds a JSON {type(value).__name__} where an object {{...}} is expected"
        )
    return value
