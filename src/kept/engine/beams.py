"""Beam search over one prompt, with transformers' scoring and stopping rules."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from kept.engine.continuation import Continuation
from kept.engine.group import Draw, Drawn, Group, Move
from kept.errors import SamplingError
from kept.models import NextLogits
from kept.sampling import (
    TokenLogprobs,
    best_candidates,
    drawn_candidates,
    token_logprobs,
)
from kept.text import ends_in_stop

LOWEST = -1.0e9  # stands for "cannot win" in sums of log-probabilities, as in transformers


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A beam: its new tokens, score, and whether it has ended. parent: index of the beam before."""

    tokens: tuple[int, ...]
    score: float
    parent: int
    ended: bool
    logprobs: tuple[TokenLogprobs, ...] = ()


class BeamGroup(Group):
    """One beam search. `results` are filled in when it ends."""

    moves = True

    def __init__(self, results: list[Continuation], beams: list[Continuation]) -> None:
        """results: the continuations to return; beams: `num_beams` working ones."""
        self.results, self._beams = results, beams
        self.params = results[0].params
        self.live = beams[:1]
        for continuation in (*results, *beams):
            continuation.usage = results[0].usage
        self._running = [Hypothesis((), LOWEST if i else 0.0, 0, False) for i in range(self.width)]
        self._finished: list[Hypothesis] = []
        self._improvable = True

    @property
    def width(self) -> int:
        """See `Group.width`."""
        return self.params.num_beams

    @property
    def members(self) -> list[Continuation]:
        """See `Group.members`."""
        return self._beams

    def draws(self) -> list[Draw]:
        """None: its beams compete for their tokens."""
        return []

    def settle(self, drawn: Sequence[Drawn], logits: Callable[[], NextLogits]) -> list[Move]:
        """See `Group.settle`."""
        found = logits()
        if len(self.live) == 1 and self.width > 1 and not self._running[0].tokens:
            found = NextLogits(found.logits.expand(self.width, -1))
            self.live = self.live * self.width
        candidates = self._candidates(found)
        going = sorted(candidates, key=lambda c: c.score + LOWEST * c.ended, reverse=True)
        self._collect(candidates)
        self._running = [replace(h, score=h.score + LOWEST * h.ended) for h in going[: self.width]]
        self._improvable = self._improvable and self._can_improve()
        full = len(self._finished) == self.width and self.params.early_stopping is True
        if not self._improvable or full or all(c.ended for c in candidates):
            self._end()
            return []
        return self._advance()

    def _candidates(self, found: NextLogits) -> list[Hypothesis]:
        """The best continuations of all beams, best first (in draw order when sampling)."""
        params, logits = self.params, found.logits
        histories = [beam.history for beam in self.live]
        scores = [h.score for h in self._running]
        if params.do_sample:
            key = self.results[0].seed, len(histories[0])
            best = drawn_candidates(logits, params, histories, scores, key)
        else:
            best = best_candidates(logits, params, histories, scores, found.likeliest)
        if not math.isfinite(best.scores[0]):
            raise SamplingError(
                f"prompt {self.results[0].prompt_index}: the best of {self.width} beams has score "
                f"{best.scores[0]}, so none can go on; check the model's weights, or loosen what "
                f"leaves no token to choose, as no_repeat_ngram_size={params.no_repeat_ngram_size} "
                "may"
            )
        return [
            self._extend(beam, token, score, logits[beam])
            for beam, token, score in zip(*best, strict=True)
        ]

    def _extend(self, beam: int, token: int, score: float, logits: Tensor) -> Hypothesis:
        before = self._running[beam]
        tokens = (*before.tokens, token)
        logprobs = before.logprobs
        if self.params.logprobs is not None:
            logprobs = (*logprobs, token_logprobs(logits, token, self.params.logprobs))
        return Hypothesis(tokens, score, beam, self._ends(tokens), logprobs)

    def _ends(self, tokens: tuple[int, ...]) -> bool:
        first = self.results[0]
        if tokens[-1] in self.params.eos_token_ids:
            return True
        if first.history.num_prompt + len(tokens) >= first.limit:
            return True
        if not self.params.stop_strings or first.tokenizer is None:
            return False
        # Beams change parents at every step, and a Spelling would have to be forked with each.
        before = first.history.tokens[-64:].tolist()
        return ends_in_stop(first.tokenizer, before, tokens, self.params.stop_strings)

    def _collect(self, candidates: list[Hypothesis]) -> None:
        """Merge the best candidates that just ended into the finished ones."""
        if not self._improvable:
            return
        if len(self._finished) == self.width and self.params.early_stopping is True:
            return
        length = len(candidates[0].tokens)
        for found in candidates[: self.width]:
            if found.ended:
                score = found.score / length**self.params.length_penalty
                ended = Hypothesis(found.tokens, score, found.parent, True, found.logprobs)
                self._finished.append(ended)
        self._finished = sorted(self._finished, key=lambda h: h.score, reverse=True)[: self.width]

    def _can_improve(self) -> bool:
        """Whether a running beam may beat the worst finished one, by transformers' heuristic."""
        if len(self._finished) < self.width:
            return True
        first, penalty = self.results[0], self.params.length_penalty
        length = len(self._running[0].tokens)
        if self.params.early_stopping == "never" and penalty > 0:
            length = first.limit - first.history.num_prompt
        best: float = self._running[0].score / length**penalty
        return best > self._finished[-1].score

    def _advance(self) -> list[Move]:
        """Make the running hypotheses the live beams; each goes on from its parent's keys."""
        parents = self.live
        histories = [beam.history for beam in parents]
        computed, offset = parents[0].num_computed, parents[0].offset
        fresh = [histories[h.parent].fork() for h in self._running]
        moves = []
        sources = [parents[h.parent] for h in self._running]
        spare = [beam for beam in self._beams if all(beam is not p for p in parents)]
        beams = list(dict.fromkeys(parents)) + spare
        for hypothesis, history, parent, beam in zip(
            self._running, fresh, sources, beams, strict=True
        ):
            history.append(hypothesis.tokens[-1])
            beam.history, beam.num_computed, beam.offset = history, computed, offset
            moves.append(Move(beam, parent))
        self._stamp()
        self.live = beams
        return moves

    def _stamp(self) -> None:
        now = time.perf_counter()
        for result in self.results:
            result.first_token_at = result.first_token_at or now
            result.last_token_at = now

    def _end(self) -> None:
        self._stamp()
        ranked = self._finished or self._running
        for result, hypothesis in zip(self.results, ranked, strict=False):
            self._fill(result, hypothesis)
        for result in self.results[len(ranked) :]:
            result.finish("stop")
        self.live = []

    def _fill(self, result: Continuation, hypothesis: Hypothesis) -> None:
        result.adopt(list(hypothesis.tokens), list(hypothesis.logprobs), hypothesis.score)
        last = hypothesis.tokens[-1] if hypothesis.tokens else None
        reached = len(result.history) >= result.limit and last not in self.params.eos_token_ids
        result.finish("length" if reached else "stop")

    def _keep_best(self) -> None:
        """The best beams as they stand."""
        penalty = self.params.length_penalty
        running = [
            replace(h, score=h.score / len(h.tokens) ** penalty) for h in self._running if h.tokens
        ]
        ranked = sorted([*self._finished, *running], key=lambda h: h.score, reverse=True)
        for result, hypothesis in zip(self.results, ranked, strict=False):
            if result.score is not None:
                continue  # it had what it was to have when an exception came
            result.adopt(list(hypothesis.tokens), list(hypothesis.logprobs), hypothesis.score)
