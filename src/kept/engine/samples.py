"""`num_return_sequences` texts drawn from one prompt, each with a seed of its own."""

from __future__ import annotations

from kept.engine.continuation import Continuation
from kept.engine.group import Group, Move
from kept.errors import SamplingError
from kept.models import NextLogits
from kept.sampling import sample


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
        try:
            drawn = sample(
                logits,
                [c.params for c in self.live],
                [c.history for c in self.live],
                [(c.seed, len(c.history)) for c in self.live],
                best,
                likeliest,
            )
        except SamplingError as error:
            raise SamplingError(f"prompt {self.results[0].prompt_index}: {error}") from error
        moves = []
        for continuation, parent, token, logprobs in zip(
            self.live, parents, drawn.token_ids, drawn.logprobs, strict=True
        ):
            continuation.take(token, logprobs)
            if continuation.finish_reason is None:
                moves.append(Move(continuation, parent))
        self.live = [move.continuation for move in moves]
        return moves
