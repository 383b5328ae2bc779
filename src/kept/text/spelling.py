"""The text that tokens spell, up to the first stop string."""

from __future__ import annotations

from collections.abc import Sequence

from kept.text.detokenizer import IncrementalDetokenizer
from kept.text.stop import StopChecker
from kept.text.tokenizer import Tokenizer


class Spelling:
    """A text in the making: tokens go in, and what is certain of their text comes out.

    Special tokens are left out of the text unless that is not wanted, but a stop string can name
    them: "\\n<|im_end|>" ends it before the line's end. What transformers' StopStringCriteria
    compares holds them too.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int],
        stop_strings: tuple[str, ...],
        *,
        skip_special_tokens: bool = True,
    ) -> None:
        """Begin after the tokens `prompt_ids`, of which only the end is looked at."""
        self._tokenizer = tokenizer
        self._hidden = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._detokenizer = IncrementalDetokenizer(
            tokenizer, prompt_ids, skip_special_tokens=skip_special_tokens
        )
        self._stops = StopChecker(stop_strings)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has been found."""
        return self._stops.stopped

    @property
    def stop_string(self) -> str | None:
        """The stop string that has been found."""
        return self._stops.found

    def add(self, token_ids: Sequence[int]) -> str:
        """Take the next tokens, give the text that is now certain."""
        if not self._stops.stop_strings:
            return self._detokenizer.add(token_ids)
        pieces = []
        for token_id in token_ids:
            if token_id in self._hidden:
                pieces.append(self._stops.mark(*self._detokenizer.special(token_id)))
            else:
                pieces.append(self._stops.add(self._detokenizer.add([token_id])))
        return "".join(pieces)

    def finish(self) -> str:
        """Say that no more tokens come, and give the rest. A stop string found now counts."""
        return self._stops.add(self._detokenizer.finish()) + self._stops.finish()


def ends_in_stop(
    tokenizer: Tokenizer, before: Sequence[int], tokens: Sequence[int], stops: tuple[str, ...]
) -> bool:
    """Whether the last of `tokens`, which come after `before`, completes a stop string."""
    # Every token spells at least one byte, so this tail holds any stop that ends just now.
    tail = max(len(stop.encode()) for stop in stops) + 8
    spelling = Spelling(tokenizer, [*before, *tokens[:-tail]], stops)
    spelling.add(tokens[-tail:])
    spelling.finish()
    return spelling.stopped
