"""`num_return_sequences` texts drawn from one prompt, each with a seed of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kept.engine.continuation import Continuation
from kept.engine.group import Draw, Drawn, Group, Move
from kept.errors import KeptError
from kept.models import NextLogits


class SampleGroup(Group):
    """Greedy or sampled texts. The first reads the prompt; the others fork from it."""

    def __init__(self, continuations: list[Continuation]) -> None:
        self.results = continuations
        self.params = continuations[0].params
        self.live = continuations[:1]
        self._forked = len(continuations) == 1
        # Of each of `live` once all have forked, as they go on from themselves.
        self._draws = [Draw(continuation, continuation) for continuation in continuations]
        for continuation in continuations:
            continuation.usage = continuations[0].usage

    @property
    def width(self) -> int:
        """See `Group.width`."""
        return len(self.results)

    @property
    def members(self) -> list[Continuation]:
        """See `Group.members`."""
        return self.results

    def draws(self) -> list[Draw]:
        """See `Group.draws`."""
        if not self._forked:
            return [Draw(continuation, self.live[0]) for continuation in self.results]
        return self._draws

    def settle(self, drawn: Sequence[Drawn], logits: Callable[[], NextLogits]) -> list[Move]:
        """See `Group.settle`."""
        parents = self.live
        if not self._forked:
            self._forked = True
            parents = self.live * len(self.results)
            for follower in self.results[1:]:
                follower.num_computed, follower.offset = parents[0].num_computed, parents[0].offset
            self.live = list(self.results)
        moves = []
        for continuation, parent, found in zip(self.live, parents, drawn, strict=True):
            self._take(continuation, found)
            if continuation.finish_reason is None:
                moves.append(Move(continuation, parent))
        if len(moves) < len(self.live):
            self._go_on_with([move.continuation for move in moves])
        return moves

    @property
    def may_draft(self) -> bool:
        """See `Group.may_draft`."""
        return self._forked

    def take_more(self, continuation: Continuation, drawn: Drawn) -> None:
        """See `Group.take_more`."""
        self._take(continuation, drawn)
        if continuation.finish_reason is not None:
            self._go_on_with([other for other in self.live if other is not continuation])

    def _take(self, continuation: Continuation, drawn: Drawn) -> None:
        try:
            if isinstance(drawn, Exception):
                raise self._named(continuation, drawn)
            continuation.take(*drawn)
        except Exception as error:  # of this text alone: the others go on
            continuation.fail(error)

    def _go_on_with(self, live: list[Continuation]) -> None:
        self.live = live
        self._draws = [Draw(continuation, continuation) for continuation in live]

    def _named(self, continuation: Continuation, error: Exception) -> Exception:
        """The error with the name of its text."""
        which = f", text {continuation.index}" if len(self.results) > 1 else ""
        if not isinstance(error, KeptError):
            return error
        named = type(error)(f"prompt {continuation.prompt_index}{which}: {error}")
        named.__cause__ = error
        return named
