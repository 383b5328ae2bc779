"""Texts that ask for what was said: pairs of a key and a value among filler, then keys again.

    bos  f f k7 v2 f f f f k1 v9 f f ...  | k1 v9  k7 v2
         the body, pairs where chance put     questions: a key that was there, and what followed it
         them, each key once

A question is right where the model's likeliest token after the key is the value. Few pairs in a
long body are the needles of a haystack; many are associative recall. Source: Arora et al. 2023,
"Zoology: Measuring and Improving Recall in Efficient Language Models", whose multi-query task this
is, with filler between.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NUM_FILLERS, NUM_KEYS, NUM_VALUES = 63, 64, 64
_FIRST_KEY = 1 + NUM_FILLERS  # token 0 is the bos
_FIRST_VALUE = _FIRST_KEY + NUM_KEYS
VOCABULARY = _FIRST_VALUE + NUM_VALUES


@dataclass(frozen=True, slots=True)
class RecallTask:
    """body: tokens between bos and questions, even. num_pairs: at most body / 2 and 64, of which
    `num_questions` are asked for."""

    name: str
    body: int
    num_pairs: int
    num_questions: int

    @property
    def length(self) -> int:
        """Tokens of a text."""
        return 1 + self.body + 2 * self.num_questions

    @property
    def answers(self) -> slice:
        """Where in a text the values are that questions ask for."""
        return slice(self.body + 2, self.length, 2)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, length) int64 texts."""

        def shuffled(size: int, taken: int) -> Tensor:
            drawn = torch.rand(count, size, generator=generator, dtype=torch.float32, device="cpu")
            return drawn.argsort(1)[:, :taken]

        def tokens(first: int, size: int, *shape: int) -> Tensor:
            return torch.randint(
                first,
                first + size,
                (count, *shape),
                generator=generator,
                dtype=torch.int64,
                device="cpu",
            )

        texts = torch.zeros(count, self.length, dtype=torch.int64, device="cpu")
        texts[:, 1 : 1 + self.body] = tokens(1, NUM_FILLERS, self.body)
        keys = _FIRST_KEY + shuffled(NUM_KEYS, self.num_pairs)
        pairs = torch.stack((keys, tokens(_FIRST_VALUE, NUM_VALUES, self.num_pairs)), dim=2)
        places = shuffled(self.body // 2, self.num_pairs)
        body = texts[:, 1 : 1 + self.body].unflatten(1, (-1, 2))
        body.scatter_(1, places[..., None].expand(-1, -1, 2), pairs)
        asked = shuffled(self.num_pairs, self.num_questions)
        texts[:, 1 + self.body :] = pairs.take_along_dim(asked[..., None], dim=1).flatten(1)
        return texts


TASKS = (
    RecallTask("associative recall", body=510, num_pairs=48, num_questions=16),
    RecallTask("needles", body=510, num_pairs=4, num_questions=4),
)
