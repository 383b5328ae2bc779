"""Names of files as callers give them."""

from __future__ import annotations

import os
from pathlib import Path

from kept.errors import OptionError


def read_path(value: object, what: str) -> Path:
    """The path that a caller named. what: whose name it is, for the error.

    Raises OptionError for what can name no file: no text, an empty one, or one with characters that
    no file system takes. Whether there is a file is not looked at.
    """
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str):
        raise OptionError(
            f"{what} is named by {value!r:.100}, a {type(value).__name__}; pass a path"
        )
    if not text.strip():
        raise OptionError(f"the name of {what} is empty; pass a path")
    if "\0" in text or not _is_encodable(text):
        raise OptionError(
            f"{what} is named {text[:100]!r}, which holds a character that no file's name can "
            "have; pass a path"
        )
    return Path(text)


def _is_encodable(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return True
