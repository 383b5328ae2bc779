"""A grammar along one text: which tokens may come next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kept.errors import NoTokenError
from kept.grammar.compiled import Compiled, explained

if TYPE_CHECKING:
    from kept.grammar.ahead import Job

Words = npt.NDArray[np.uint32]
Ids = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Constraint:
    """Follows the tokens that one text has come to, and says what may follow them.

    A text may also be shorter than when it was last asked about, or end otherwise: what was taken
    beyond is taken back, at no cost by its length. For one text; one thread at a time.
    """

    __slots__ = ("_job", "_taken", "_words", "compiled", "ends", "matcher")

    def __init__(self, compiled: Compiled, ends: frozenset[int]) -> None:
        """ends: the tokens that end the text, which may come where the grammar is satisfied."""
        self.compiled = compiled
        self.matcher = compiled.first.deep_copy()
        self.ends = tuple(sorted(token for token in ends if token < compiled.num_tokens))
        self._taken: list[int] = []
        self._words: Words | None = None
        self._job: Job | None = None

    def take(self, token: int) -> None:
        """Take a token before the text has it, which it is about to."""
        self._settle()
        self._words = None
        if self.matcher.try_consume_tokens([token]) == 1:
            self._taken.append(token)

    def words(self, tokens: Ids) -> Words:
        """What may follow the tokens of a text so far: bit t % 32 of word t // 32 is token t's.

        tokens: (n,) without the prompt. None may where the text has ended, and where it is none of
        the grammar's. Raises NoTokenError where the grammar becomes too complex to follow.
        """
        self._settle()
        self._follow(tokens)
        if self._words is None:
            words = np.zeros(self.compiled.num_words, dtype=np.uint32)
            if len(self._taken) == tokens.size:
                self.matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
            self._check()
            self.ends_in(words[None])
            self._words = words
        return self._words

    def allows(self, tokens: Ids, token: int) -> bool:
        """Whether a token may follow these."""
        words = self.words(tokens)
        return token >> 5 < words.size and bool(int(words[token >> 5]) >> (token & 31) & 1)

    def num_allowed(self, tokens: Ids, drafts: Sequence[int]) -> int:
        """How many of some drafts may follow these tokens, one behind the other."""
        self._settle()
        self._follow(tokens)
        if len(self._taken) < tokens.size or self.matcher.is_error():
            return 0
        return self.matcher.validate_tokens(list(drafts))

    @property
    def is_known(self) -> bool:
        """Whether what may come next has been found out, or is being."""
        return self._words is not None or self._job is not None

    def expect(self, job: Job) -> None:
        """Note who finds out what may come next."""
        self._job = job

    def ends_in(self, words: Words) -> None:
        """Put the tokens that end a text into masks (R, W) of its grammar as the matcher made them,
        in place of the one that stands for an end there."""
        at, bit = self.compiled.end >> 5, np.uint32(1 << (self.compiled.end & 31))
        may_end = (words[:, at] & bit) != 0
        words[:, at] &= ~bit
        for token in self.ends:
            at, bit = token >> 5, np.uint32(1 << (token & 31))
            if token not in self.compiled.special:
                words[:, at] &= ~bit
            words[:, at] |= np.where(may_end, bit, np.uint32(0))

    def _settle(self) -> None:
        job, self._job = self._job, None
        if job is not None:
            words = job.words_of(self)
            # Of a dead end none is kept: who asks for a mask has to hear of it, and nobody else.
            self._words = None if self.matcher.is_error() else words

    def _check(self) -> None:
        if self.matcher.is_error():
            why = explained(self.matcher.get_error())
            raise NoTokenError(f"{self.compiled.name} cannot be followed any further: {why}")

    def _follow(self, tokens: Ids) -> None:
        taken, size = self._taken, tokens.size
        if len(taken) == size and (not size or taken[-1] == tokens[-1]):
            return
        self._words = None
        new: list[int] = tokens.tolist()
        pairs = zip(taken, new, strict=False)
        same = next((i for i, (old, token) in enumerate(pairs) if old != token), None)
        if same is None:
            same = min(len(taken), size)
        if same < len(taken):
            self.matcher.rollback(len(taken) - same)
            del taken[same:]
        count = self.matcher.try_consume_tokens(new[same:]) if same < size else 0
        taken += new[same : same + count]


def allowed_of(words: Words, vocab_size: int) -> Flags:
    """Whether each token of a vocabulary, (V,), is among those of a mask; others are not."""
    bits = np.unpackbits(words.view(np.uint8), bitorder="little", count=32 * words.size)
    allowed = np.zeros(vocab_size, dtype=np.bool_)
    count = min(vocab_size, bits.size)
    allowed[:count] = bits[:count]
    return allowed
