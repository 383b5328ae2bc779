"""The sequences that share a prompt: samples drawn side by side, or the beams of one search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass

from kept.engine.continuation import Continuation
from kept.models import NextLogits
from kept.sampling import ResolvedParams


@dataclass(frozen=True, slots=True)
class Move:
    """A sequence of the next step, and the one of this step whose keys it goes on from."""

    continuation: Continuation
    parent: Continuation


class Group(ABC):
    """One prompt's sequences.

    live: those in the cache, at first only one; the prompt is read once. results: what the caller
    gets, in order. width: how many slots it may come to need.
    """

    live: list[Continuation]
    results: list[Continuation]
    params: ResolvedParams

    @property
    @abstractmethod
    def width(self) -> int: ...

    @abstractmethod
    def settle(self, found: NextLogits) -> list[Move]:
        """Take the logits (len(live), V) of every live sequence's next token; say who lives on.

        Mutates the continuations, `live` and `results`.
        """

    @property
    def finished(self) -> bool:
        """Whether every result is final."""
        return not self.live

    def interrupt(self) -> None:
        """End as things stand."""
        self._keep_best()
        for continuation in self.results:
            if continuation.finish_reason is None:
                continuation.finish("interrupted")
        self.live = []

    def fail(self, error: Exception) -> None:
        """End as things stand, with an error in every text that had not ended."""
        with suppress(Exception):  # what failed may be the spelling itself
            self._keep_best()
        for continuation in self.results:
            if continuation.finish_reason is None:
                continuation.fail(error)
        self.live = []

    def _keep_best(self) -> None:  # noqa: B027  # most groups have nothing better than their texts
        """Give the results what was found so far, where that is kept elsewhere."""
