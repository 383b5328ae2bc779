"""The tokens of one sequence so far, as the processors read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from kept.grammar import Constraint, Words

Ids = npt.NDArray[np.int64]


class TokenHistory:
    """The token ids of one sequence, prompt first, in a buffer that grows by doubling.

    `append` changes it; `tokens` is a read-only view that this invalidates. constraint: the grammar
    of what follows the prompt, None: any text.
    """

    __slots__ = (
        *("_buffer", "_length", "_num_marked", "_seen", "_source"),
        *("constraint", "last", "num_prompt"),
    )

    def __init__(
        self,
        prompt: Sequence[int] | torch.Tensor | Ids,
        source: Sequence[int] | Ids | None = None,
        constraint: Constraint | None = None,
    ) -> None:
        """source: what an encoder reads of the request, where it is not the prompt."""
        self.constraint = constraint
        tokens = prompt.cpu().numpy() if isinstance(prompt, torch.Tensor) else prompt
        self._buffer: Ids = np.array(tokens, dtype=np.int64).reshape(-1)
        self._length = self.num_prompt = self._buffer.size
        self.last = int(self._buffer[-1]) if self._length else -1  # the newest token, -1: none
        self._source = None if source is None else np.array(source, dtype=np.int64)
        self._seen: npt.NDArray[np.bool_] = np.empty(0, dtype=np.bool_)
        self._num_marked = 0

    def __len__(self) -> int:
        return self._length

    @property
    def tokens(self) -> Ids:
        """All token ids, prompt first, shape (S,)."""
        view = self._buffer[: self._length]
        view.flags.writeable = False
        return view

    @property
    def asked(self) -> Ids:
        """The tokens the request came with: what the encoder read, or else the prompt."""
        return self.tokens[: self.num_prompt] if self._source is None else self._source

    def seen(self, vocab_size: int) -> npt.NDArray[np.bool_]:
        """Whether each token of the vocabulary, (vocab_size,), is among these; not to be changed.

        A call marks the tokens since the last one, so that a step costs no reading of all. Tokens
        past the end of the vocabulary are passed over.
        """
        if self._seen.size != vocab_size:
            self._seen, self._num_marked = np.zeros(vocab_size, dtype=np.bool_), 0
        if self._num_marked < self._length:
            new = self._buffer[self._num_marked : self._length]
            self._seen[new[new < vocab_size]] = True
            self._num_marked = self._length
        return self._seen

    @property
    def allowed(self) -> Words:
        """What its constraint allows next, a bit for each token; see `Constraint.words`."""
        assert self.constraint is not None, "only a history with a grammar allows some tokens alone"
        return self.constraint.words(self._buffer[self.num_prompt : self._length])

    def allows(self, token: int) -> bool:
        """Whether its constraint, if it has one, allows a token next."""
        if self.constraint is None:
            return True
        return self.constraint.allows(self._buffer[self.num_prompt : self._length], token)

    def num_allowed(self, drafts: Sequence[int]) -> int:
        """How many of some drafts its constraint, if it has one, allows one behind the other."""
        if self.constraint is None:
            return len(drafts)
        return self.constraint.num_allowed(self._buffer[self.num_prompt : self._length], drafts)

    def generated(self, begin: int, end: int) -> list[int]:
        """Tokens [begin, end) of those that follow the prompt."""
        first = self.num_prompt
        found: list[int] = self._buffer[first + begin : first + end].tolist()
        return found

    @property
    def num_generated(self) -> int:
        """How many tokens follow the prompt."""
        return self._length - self.num_prompt

    def append(self, token_id: int) -> int:
        """Add one generated token; returns how many there are then."""
        if self._length == self._buffer.size:
            grown = np.empty(max(64, 2 * self._buffer.size), dtype=np.int64)
            grown[: self._length] = self._buffer[: self._length]
            self._buffer = grown
        self._buffer[self._length] = self.last = token_id
        if self._num_marked == self._length and token_id < self._seen.size:
            self._seen[token_id] = True  # one by one, a tenth of what `seen` takes for it
            self._num_marked += 1
        self._length += 1
        return self._length

    def fork(self) -> Self:
        """Return a copy that grows on its own, without a constraint."""
        copy = type(self)(self.tokens, self._source)
        copy.num_prompt = self.num_prompt
        return copy
