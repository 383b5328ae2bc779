"""`num_return_sequences` texts drawn from one prompt, each with a seed of its own."""

from __future__ import annotations

from kept.engine.continuation import Continuation
from kept.engine.group import Group, Move
from kept.models import NextLogits
from kept.sampling import TokenLogprobs, sample_rows

Drawn = tuple[int, TokenLogprobs | None]


class SampleGroup(Group):
    """Greedy or sampled texts. The first reads the prompt; the others fork from it."""

    def __init__(self, continuations: list[Continuation]) -> None:
        self.results = continuations
        self.params = continuations[0].params
        self.live = continuations[:1]
        self._forked = len(continuations) == 1

    @property
    def width(self) -> int:
        """See `Group.width`."""
        return len(self.results)

    def settle(self, found: NextLogits) -> list[Move]:
        """See `Group.settle`."""
        parents = self.live
        logits, best, likeliest = found.logits, found.best, found.likeliest
        if not self._forked:
            self._forked = True
            parents = self.live * len(self.results)
            logits = logits.expand(len(self.results), -1)
            best = None if best is None else best * len(self.results)
            likeliest = None if likeliest is None else likeliest.repeated(len(self.results))
            for follower in self.results[1:]:
                follower.num_computed, follower.offset = parents[0].num_computed, parents[0].offset
            self.live = list(self.results)
        drawn = self._draw(NextLogits(logits, best, likeliest))
        moves = []
        for continuation, parent, found_token in zip(self.live, parents, drawn, strict=True):
            try:
                if isinstance(found_token, Exception):
                    raise found_token
                continuation.take(*found_token)
            except Exception as error:  # of this text alone: the others go on
                continuation.fail(error)
            if continuation.finish_reason is None:
                moves.append(Move(continuation, parent))
        self.live = [move.continuation for move in moves]
        return moves

    def _draw(self, found: NextLogits) -> list[Drawn | Exception]:
        """The next tokens of the live texts; where one cannot be drawn, the reason."""
        drawn = sample_rows(
            found.logits,
            [c.params for c in self.live],
            [c.history for c in self.live],
            [(c.seed, len(c.history)) for c in self.live],
            found.best,
            found.likeliest,
        )
        rows = zip(self.live, drawn.token_ids, drawn.logprobs, drawn.errors, strict=True)
        return [
            (token, logprobs) if error is None else self._named(continuation, error)
            for continuation, token, logprobs, error in rows
        ]

    def _named(self, continuation: Continuation, error: Exception) -> Exception:
        """The error with the name of its text."""
        which = f", text {continuation.index}" if len(self.results) > 1 else ""
        named = type(error)(f"prompt {continuation.prompt_index}{which}: {error}")
        named.__cause__ = error
        return named
