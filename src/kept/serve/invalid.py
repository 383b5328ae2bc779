"""What is wrong with a body, of what pydantic says about it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from kept.serve.refusal import Refusal

_BRANCH = re.compile(r"[\[(]|^(str|int|float|bool|constrained|list|dict)")
_MOST: Final = 5  # of which a message tells
_LONGEST: Final = 200  # characters of a field's name, which is the client's own


def refusal_of_validation(errors: Sequence[Mapping[str, Any]]) -> Refusal:
    """The refusal of a body: the field at fault, what it may be, and nothing of what it was."""
    if not errors:
        return Refusal("the body is not valid")
    told = [_told(error) for error in errors]
    name, _, code = told[0]
    alike = [other for path, other, _ in told if path == name]
    message = " or ".join(dict.fromkeys(alike[:_MOST]))
    return Refusal(message if name is None else f"{name}: {message}", 400, code, name)


def _told(error: Mapping[str, Any]) -> tuple[str | None, str, str]:
    kind, where = error["type"], [str(part) for part in error["loc"][1:]]
    # A union's branches stand in the path by the names of their types.
    name = ".".join(part for part in where if not _BRANCH.match(part))[:_LONGEST] or None
    if kind == "extra_forbidden":
        text = "is no field this server knows, and none is passed over in silence; leave it out"
        return name, text, "unknown_parameter"
    if kind == "missing":
        text = "the body is missing; send JSON" if name is None else "is missing"
        return name, text, "missing_required_parameter"
    if kind == "json_invalid":
        return None, "the body is not valid JSON", "invalid_json"
    if kind == "model_attributes_type" and name is None:
        return None, "the body is no JSON object", "invalid_value"
    return name, str(error["msg"])[:300], "invalid_value"
