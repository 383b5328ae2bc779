"""The sequences that share a prompt: samples drawn side by side, or the beams of one search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import ClassVar, NamedTuple

from kept.engine.continuation import Continuation
from kept.models import NextLogits
from kept.sampling import ResolvedParams, TokenLogprobs

Drawn = tuple[int, TokenLogprobs | None] | Exception  # why there is none


class Move(NamedTuple):
    """A sequence of the next step, and the one of this step whose keys it goes on from."""

    continuation: Continuation
    parent: Continuation


class Draw(NamedTuple):
    """A continuation that wants a token drawn, from the logits behind the last token of `parent`,
    which lives."""

    continuation: Continuation
    parent: Continuation


class Group(ABC):
    """One prompt's sequences.

    live: those in the cache, at first only one; the prompt is read once. results: what the caller
    gets, in order. width: how many slots it may come to need. moves: whether sequences go on from
    each other's keys at every step.
    """

    moves: ClassVar[bool] = False

    live: list[Continuation]
    results: list[Continuation]
    params: ResolvedParams

    @property
    @abstractmethod
    def width(self) -> int: ...

    @property
    @abstractmethod
    def members(self) -> list[Continuation]:
        """Everyone who may live."""

    @abstractmethod
    def draws(self) -> list[Draw]:
        """What it wants drawn once the logits of every live sequence's next token are there; none
        if it chooses its tokens itself."""

    @abstractmethod
    def settle(self, drawn: Sequence[Drawn], logits: Callable[[], NextLogits]) -> list[Move]:
        """Take what was drawn, in the order of `draws`; say who lives on.

        logits: those of every live sequence's next token, (len(live), V), in order. Mutates the
        continuations, `live` and `results`.
        """

    @property
    def may_draft(self) -> bool:
        """Whether each live sequence goes on by itself, so that it can `take_more`."""
        return False

    def take_more(self, continuation: Continuation, drawn: Drawn) -> None:
        """Take what was drawn for a live sequence behind what it took in this step; it goes on or
        ends. Mutates it and `live`. Only where sequences `may_draft`."""
        raise NotImplementedError(f"sequences of a {type(self).__name__} depend on each other")

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
