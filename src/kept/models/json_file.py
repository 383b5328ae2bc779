"""Reading the JSON files of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kept.errors import CheckpointError, CheckpointNotFoundError


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object that `path` holds.

    Raises `CheckpointNotFoundError` where there is no such file, and `CheckpointError` where it
    cannot be read, is not UTF-8 JSON, or is not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointNotFoundError(
            f"{path} is not there. A checkpoint is a folder with config.json, safetensors weights "
            "and tokenizer.json; is this one complete?"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{path} is not UTF-8 text: byte {error.start} of {len(error.object)} is wrong. "
            "Download it again."
        ) from error
    except json.JSONDecodeError as error:
        raise CheckpointError(
            f"{path} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}. "
            "Correct it or download it again."
        ) from error
    except (RecursionError, ValueError) as error:
        # Nesting beyond the parser's depth, or an integer of thousands of digits.
        raise CheckpointError(f"{path} is not JSON that can be read: {error}.") from error
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{path} must hold a JSON object ({{...}}), and holds a {type(value).__name__}. "
            "Download it again."
        )
    return value
