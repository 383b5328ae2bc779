"""One text in the making: its tokens, how far they are computed, and the text they spell."""

from __future__ import annotations

import time
from bisect import bisect_left
from contextlib import suppress
from dataclasses import dataclass, field

from kept.engine.completion import Completion, FinishReason
from kept.engine.counters import DraftCounts
from kept.engine.usage import Usage
from kept.engine.window import ContextRule
from kept.sampling import ResolvedParams, TokenHistory, TokenLogprobs
from kept.text import Spelling, Tokenizer


@dataclass(slots=True, eq=False)
class Continuation:
    """One continuation of one prompt.

    offset: the first token of `history` inside the window; num_computed: how many tokens from
    there on have their keys in the cache. slot: where in the cache it lives; None: nowhere.
    usage: what its request has waited for and been given. cache_bytes: what its keys and values
    took when last counted. source: the prompt of an encoder-decoder model, read before the first
    token of `history`, which begins with the decoder's start token; else None.
    is_long: whether it has outgrown the length beyond which its model's keys are others.
    drafts: those that were verified for it. is_foreseen: whether the token that is taken next needs
    no step of its own.
    """

    history: TokenHistory
    params: ResolvedParams
    seed: int
    limit: int
    prompt_index: int
    index: int
    tokenizer: Tokenizer | None
    offset: int = 0
    num_computed: int = 0
    slot: int | None = None
    source: tuple[int, ...] | None = None
    usage: Usage = field(default_factory=Usage)
    cache_bytes: int = 0
    is_long: bool = False
    drafts: DraftCounts = field(default_factory=DraftCounts)
    is_foreseen: bool = False
    first_token_at: float | None = None
    last_token_at: float | None = None
    finish_reason: FinishReason | None = None
    error: Exception | None = None
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    score: float | None = None
    _pieces: list[str] = field(default_factory=list)
    _foreseen: list[bool] = field(default_factory=list)  # of each piece, at least as many
    _drawn: list[int] = field(default_factory=list)  # tokens when it was certain, the same
    _ends: list[int] = field(default_factory=list)  # where in the text, the same
    _taken: int = 0
    _spelling: Spelling | None = None

    def __post_init__(self) -> None:
        if self.tokenizer is not None:
            prompt = self.history.tokens[-64:].tolist()
            self._spelling = Spelling(
                self.tokenizer,
                prompt,
                self.params.stop_strings,
                skip_special_tokens=self.params.skip_special_tokens,
            )

    @property
    def num_pending(self) -> int:
        """Tokens in the window that are not computed yet."""
        return len(self.history) - self.offset - self.num_computed

    @property
    def num_drafted(self) -> int:
        """Rows of drafts that were verified for it."""
        return self.drafts.drafted.total()

    @property
    def num_accepted(self) -> int:
        """Its tokens that needed no step of their own."""
        return self.drafts.accepted.total()

    def slide(self, rule: ContextRule) -> bool:
        """Move the window if it is overfull; whatever was computed is void then."""
        offset = rule.next_offset(self.offset, len(self.history))
        if offset == self.offset:
            return False
        self.offset, self.num_computed, self.is_long = offset, 0, False
        return True

    def outgrow(self, length: int) -> bool:
        """Say once whether it has come to more tokens than that over keys of a shorter text; they
        are void then."""
        if self.is_long or len(self.history) - self.offset <= length:
            return False
        self.is_long = True
        if not 0 < self.num_computed <= length:
            return False
        self.num_computed = 0
        return True

    def take(self, token: int, logprobs: TokenLogprobs | None) -> None:
        """Add a drawn token, and finish if it, the text or the length says so."""
        length = self.history.append(token)
        self.last_token_at = time.perf_counter()
        if self.first_token_at is None:
            self.first_token_at = self.last_token_at
        if logprobs is not None:
            self.logprobs.append(logprobs)
        piece, stopped = "", False
        ends = token in self.params.eos_token_ids
        if self._spelling is not None and not (ends and not self.params.skip_special_tokens):
            piece, stopped = self._spelling.add([token]), self._spelling.stopped
        if stopped or ends or self._is_complete():
            self._end("stop", piece)
        elif length >= self.limit:
            self._end("length", piece)
        elif piece:
            self._add(piece)

    def _is_complete(self) -> bool:
        """Whether a grammar is, of a text that no token ends: nothing may follow."""
        if self.history.constraint is None or self.params.eos_token_ids:
            return False
        return not self.history.allowed.any()

    def adopt(self, tokens: list[int], logprobs: list[TokenLogprobs], score: float) -> None:
        """Become what a beam search found: its new tokens, and their text up to a stop string."""
        history = self.history.fork()
        for token in tokens:
            history.append(token)
        self.history, self.logprobs, self.score = history, logprobs, score
        if self._spelling is not None:
            for number, token in enumerate(tokens, 1):
                if piece := self._spelling.add([token]):
                    self._add(piece, number)

    def finish(self, reason: FinishReason) -> None:
        """Give out what text was withheld, and end. A stop string found only now counts."""
        self._end(reason, "")

    def _end(self, reason: FinishReason, piece: str) -> None:
        """Give out a last piece of text and what was withheld, as one."""
        if self._spelling is not None:
            try:
                piece += self._spelling.finish()
            finally:
                self._add(piece)
            if self._spelling.stopped and reason != "error":
                reason = "stop"
        self.finish_reason = reason

    def fail(self, error: Exception) -> None:
        """End as things stand, for an error that concerns this text alone, or all of them."""
        self.error = error
        with suppress(Exception):  # what failed may be the spelling itself
            self.finish("error")
        self.finish_reason = "error"

    def _add(self, piece: str, num_drawn: int | None = None) -> None:
        # Last what another thread looks at first.
        self._drawn.append(self.history.num_generated if num_drawn is None else num_drawn)
        self._ends.append(len(piece) + (self._ends[-1] if self._ends else 0))
        self._foreseen.append(self.is_foreseen)
        self._pieces.append(piece)

    def tokens_of(self, num_characters: int) -> int:
        """How many tokens had been drawn when so many characters of its text were certain."""
        if num_characters <= 0:
            return 0
        found = bisect_left(self._ends, num_characters)
        return self.history.num_generated if found == len(self._ends) else self._drawn[found]

    def take_text(self) -> str:
        """The text of the first token since the last call that spelled any; "" if none did.

        One thread may take while another steps.
        """
        while self._taken < len(self._pieces):
            self._taken += 1
            if piece := self._pieces[self._taken - 1]:
                return piece
        return ""

    def take_new(self) -> tuple[list[str], list[bool]]:
        """The text of all tokens since the last call, in pieces, and of each whether its token
        needed no step of its own. One thread may take while another steps."""
        begin, end = self._taken, len(self._pieces)
        self._taken = end
        return self._pieces[begin:end], self._foreseen[begin:end]

    def completion(self) -> Completion:
        """The result so far, as "interrupted" if it has not finished."""
        now = time.perf_counter()
        usage, first, last = self.usage, self.first_token_at, self.last_token_at
        num_new = self.history.num_generated
        rate = None
        if first is not None and last is not None and last > first and num_new > 1:
            rate = (num_new - 1) / (last - first)
        return Completion(
            text="".join(self._pieces),
            token_ids=tuple(self.history.tokens[self.history.num_prompt :].tolist()),
            finish_reason=self.finish_reason or "interrupted",
            logprobs=tuple(self.logprobs) if self.params.logprobs is not None else None,
            score=self.score,
            seed=self.seed,
            prompt_index=self.prompt_index,
            index=self.index,
            prompt_tokens=self.history.num_prompt if self.source is None else len(self.source),
            cached_tokens=sum(usage.cached.values()),
            time_to_first_token=None if first is None else first - usage.arrived,
            total_time=(last or now) - usage.arrived,
            tokens_per_second=rate,
            cache_bytes=self.cache_bytes,
            error=None if self.error is None else str(self.error) or repr(self.error),
            cached_from=dict(usage.cached),
            computed_tokens=usage.num_computed,
            queue_time=None if usage.admitted is None else usage.admitted - usage.arrived,
            num_parked=usage.num_parked,
            miss_reason=usage.miss,
            drafted_tokens=self.num_drafted,
            accepted_tokens=self.num_accepted,
            drafted_from=dict(self.drafts.drafted),
            accepted_from=dict(self.drafts.accepted),
            stop_string=None if self._spelling is None else self._spelling.stop_string,
        )
