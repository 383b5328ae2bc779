"""What a prefix tree found of a text, and why it did not find more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Generic, TypeVar

from kept.blocks.lease import Lease

B = TypeVar("B")


class Reason(Enum):
    """Why a text was not found to its end; the values are names for counters."""

    WHOLE = "whole"  # it was
    DIVERGED = "diverged"  # another token stands there
    ENDED = "ended"  # what is known of it ends before
    UNKNOWN = "unknown"  # no text begins with its first token
    EVICTED = "evicted"  # the next block was known, and had to go
    OTHER_SALT = "other-salt"  # the next block is known, under another salt
    TOO_SHORT = "too-short"  # it has too few tokens to be looked up


@dataclass(frozen=True, slots=True)
class Miss:
    """Why a text was not found further than to a token.

    token: the index of the first one that was not found; the text's length where all were. was,
    asked: where it diverged, the ids of the token there in the known text that shares most, and in
    the one that was asked for. For whoever runs the model, not for everyone: `was` comes from
    another request, and "other-salt" tells that somebody sent the same tokens.
    """

    reason: Reason
    token: int
    was: int | None = None
    asked: int | None = None

    def __str__(self) -> str:
        return _SAID[self.reason].format(self.token)

    def spelled(self, spell: Callable[[int], str]) -> str:
        """The reason in words, with the tokens where it diverged as `spell` has them."""
        if self.was is None or self.asked is None:
            return str(self)
        return f"{self}: {spell(self.asked)!r} for {spell(self.was)!r}"


_SAID = {
    Reason.WHOLE: "found whole",
    Reason.DIVERGED: "diverged at token {}",
    Reason.ENDED: "known up to token {}",
    Reason.UNKNOWN: "nothing known begins like it",
    Reason.EVICTED: "evicted from token {} on",
    Reason.OTHER_SALT: "known under another salt from token {} on",
    Reason.TOO_SHORT: "too short to be shared",
}


@dataclass(frozen=True, slots=True)
class Match(Generic[B]):
    """The longest known prefix of a text.

    blocks: what holds it, in order. num_tokens: its length, which may end within the last block.
    lease: keeps them from being evicted; `with match:` releases it at the end. miss: why the prefix
    is not longer.
    """

    blocks: tuple[B, ...]
    num_tokens: int
    lease: Lease[B]
    miss: Miss

    def __enter__(self) -> Match[B]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.lease.release()
