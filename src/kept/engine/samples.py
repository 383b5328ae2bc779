"""`num_return_sequences` texts drawn from one prompt, each with a seed of its own."""

from __future__ import annotations

from kept.engine.continuation import Continuation
from kept.engine.group import Group, Move
from kept.errors import SamplingError
from kept.models import NextLogits
from kept.sampling import TokenLogprobs, sample

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
        drawn = self._draw(NextLogits(logits, best, likeliest), 0, len(self.live))
        moves = []
        for continuation, parent, found_token in zip(self.live, parents, drawn, strict=True):
            try:
                if isinstance(found_token, SamplingError):
                    raise found_token
                continuation.take(*found_token)
            except Exception as error:  # of this text alone: the others go on
                continuation.fail(error)
            if continuation.finish_reason is None:
                moves.append(Move(continuation, parent))
        self.live = [move.continuation for move in moves]
        return moves

    def _draw(self, found: NextLogits, first: int, last: int) -> list[Drawn | SamplingError]:
        """The next tokens of live[first:last]; where one cannot be drawn, the reason."""
        live, rows = self.live[first:last], found.rows(first, last)
        try:
            drawn = sample(
                rows.logits,
                [c.params for c in live],
                [c.history for c in live],
                [(c.seed, len(c.history)) for c in live],
                rows.best,
                rows.likeliest,
            )
        except SamplingError as error:
            if len(live) > 1:
                return [x for i in range(first, last) for x in self._draw(found, i, i + 1)]
            which = f", text {live[0].index}" if len(self.results) > 1 else ""
            named = SamplingError(f"prompt {live[0].prompt_index}{which}: {error}")
            named.__cause__ = error
            return [named]
        return list(zip(drawn.token_ids, drawn.logprobs, strict=True))
