"""What a client is told when it does not get what it asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from kept.errors import (
    CacheError,
    CacheFullError,
    CheckpointError,
    ContextLengthError,
    EngineError,
    KeptError,
    NoTokenError,
    OptionError,
    SamplingError,
    TemplateError,
)

_NONE: Mapping[str, str] = MappingProxyType({})


class Refusal(KeptError):
    """An answer that is an error, in no protocol's words yet.

    status: of HTTP; it decides what kind of error each protocol names. code: OpenAI's name of what
    it is, where it has one. field: of the request, as a path ("messages.0.content").
    """

    def __init__(
        self,
        message: str,
        status: int = 400,
        code: str | None = None,
        field: str | None = None,
        headers: Mapping[str, str] = _NONE,
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.code = message, status, code
        self.field, self.headers = field, headers


_TABLE: Final[tuple[tuple[type[Exception], int, str | None], ...]] = (
    (ContextLengthError, 400, "context_length_exceeded"),
    (OptionError, 400, "invalid_value"),
    (TemplateError, 400, "invalid_messages"),
    (CacheFullError, 400, "too_large_for_cache"),
    (NoTokenError, 400, "no_token_left"),
    (SamplingError, 500, "sampling_failed"),
    (CheckpointError, 400, "unsupported"),
    (CacheError, 500, "cache_failed"),
    (EngineError, 503, "engine_failed"),
    (MemoryError, 503, "out_of_memory"),
)
_FIELD = re.compile(r"^(\w+)(?:=| is | has | holds | names )")
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{4,}")  # where Python's objects lie tells who attacks
LONGEST: Final = 2000  # characters of what an error says, which may quote its client
_INTERNAL = "the server failed at this request; its log says how"


def refusal_of(error: Exception, fields: Mapping[str, str] = _NONE) -> Refusal:
    """What a client is told of an error.

    fields: what the wire calls fields of SamplingParams. Anything that kept does not raise on
    purpose is told without its text, which may hold what is none of a client's business.
    """
    if isinstance(error, Refusal):
        return error
    found = next((row for row in _TABLE if isinstance(error, row[0])), None)
    if found is None:
        return Refusal(_INTERNAL, 500, "internal_error")
    _, status, code = found
    if not isinstance(error, KeptError):
        return Refusal("there is no memory left for this request; try again later", status, code)
    message = _ADDRESS.sub("0x…", str(error))
    if len(message) > LONGEST:
        message = message[:LONGEST] + "…"
    begin = _FIELD.match(message)
    if begin is None:
        return Refusal(message, status, code)
    name = begin[1]
    if name in fields:
        return Refusal(fields[name] + message[len(name) :], status, code, fields[name])
    # Anything else with no underscore begins a sentence, as "the prompt has".
    return Refusal(message, status, code, name if "_" in name else None)


def not_text(where: str, kind: str) -> Refusal:
    """Of a part of a content, of such a type, that holds no text."""
    return Refusal(
        f"{where} is of type {kind[:40]!r}, and this model reads text alone",
        400,
        "unsupported_content",
        f"{where}.type",
    )


def lacking(where: str, name: str, what: str) -> Refusal:
    """Of a field that something has to have."""
    return Refusal(
        f"{where}.{name} is missing from {what}",
        400,
        "missing_required_parameter",
        f"{where}.{name}",
    )


def not_done(field: str, why: str) -> Refusal:
    """Of a field that asks for what this server does not do."""
    return Refusal(f"{field} {why}", 400, "unsupported_parameter", field)
