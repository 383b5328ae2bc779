"""The end of the context: where a sequence's visible window lies, and when it moves on."""

from __future__ import annotations

from dataclasses import dataclass

from kept.errors import ContextLengthError


@dataclass(frozen=True, slots=True)
class ContextRule:
    """What happens at the end of a context of `length` tokens.

    slides: go on over the last tokens. in_place: positions are relative and the cache forgets old
    keys by itself, so nothing is read again. hop: how many tokens the window moves when it must.

        length 8, hop 3     a b c d e f g h      the window is full: the next token moves it
                                  d e f g h i    five tokens and the new one are read again
    """

    length: int
    slides: bool = False
    in_place: bool = False
    hop: int = 1

    def first_offset(self, num_tokens: int) -> int:
        """Where the window of a prompt begins.

        Raises ContextLengthError for one that does not fit and may not slide.
        """
        if num_tokens <= self.length:
            return 0
        if not self.slides:
            raise ContextLengthError(
                f"the prompt has {num_tokens} tokens and the model's context is {self.length}; "
                'shorten it, or pass overflow="slide" to go on from its last tokens'
            )
        return num_tokens - self.length

    def next_offset(self, offset: int, num_tokens: int) -> int:
        """Where the window begins once the sequence has `num_tokens`."""
        if self.in_place or num_tokens - offset <= self.length:
            return offset
        return max(offset + self.hop, num_tokens - self.length)

    def limit(self, num_prompt: int, num_new: int) -> int:
        """How many tokens the sequence may have at most.

        The last token is drawn and never read, so it may lie one past the context.
        """
        wanted = num_prompt + num_new
        return wanted if self.slides else min(wanted, self.length + 1)


def default_hop(context: int) -> int:
    """A quarter of the context: re-reading then costs about three tokens per token."""
    return max(1, context // 4)
