"""What a request was made of, in digests: enough to say where the next one differs from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

MAX_REMEMBERED: Final = 4096  # footprints of a tenant
NUM_BYTES: Final = 1024  # what one takes, about
SEAM: Final = 8  # tokens at the end of a prompt that the answer behind may be read together with


@dataclass(frozen=True, slots=True)
class Footprint:
    """A request that was answered.

    parts: a digest of each part that is no message, by the part's name. messages: of all of them
    in order; num_messages: how many. prompt_tokens: what they came to.
    """

    parts: Mapping[str, bytes]
    messages: bytes
    num_messages: int
    prompt_tokens: int


def footprint(
    parts: Mapping[str, object], messages: Sequence[Mapping[str, Any]], prompt_tokens: int
) -> Footprint:
    """The footprint of a request. parts: JSON values by name; their order within counts, as it
    does to a template."""
    return Footprint(
        {name: _digest([part]) for name, part in parts.items()},
        _digest(messages),
        len(messages),
        prompt_tokens,
    )


def first_change(
    before: Footprint,
    parts: Mapping[str, object],
    messages: Sequence[Mapping[str, Any]],
) -> str | None:
    """The first part of a request that differs from the request before, in the order of `parts`.

    "messages" where all parts are the same and the messages are not those of before, or those and
    more behind them; None where nothing has changed.
    """
    for name, part in parts.items():
        if before.parts.get(name) != _digest([part]):
            return name
    begin = messages[: before.num_messages]
    if len(begin) < before.num_messages or _digest(begin) != before.messages:
        return "messages"
    return None


def missed_tokens(before: Footprint, prompt_tokens: int, cached_tokens: int) -> int:
    """Tokens that a request would have found cached, had it gone on from the request before.

    That one's were all known when it ended; a prompt's last token is always computed.
    prompt_tokens, cached_tokens: of the request, as it went.
    """
    return max(min(before.prompt_tokens, prompt_tokens - 1) - cached_tokens, 0)


def _digest(values: Iterable[object]) -> bytes:
    found = hashlib.sha256()
    for value in values:
        text = json.dumps(value).encode()
        found.update(len(text).to_bytes(8, "big") + text)
    return found.digest()
