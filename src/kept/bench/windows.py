"""Texts cut into windows that score every token once, most of them after a long context.

Windows of `context` tokens overlap by half of it, so past the first one a token has at least
context / 2 tokens before it. With a context of 8 and a document of 13 tokens, s the separator:

    s a b c d e f g h i j k l
      1 2 3 4 5 6 7 8             window 0 reads s..g and scores a..h
              . . . . 1 2 3 4     window 1 reads e..k and scores i..l
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kept.errors import OptionError
from kept.text import Tokenizer

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, slots=True)
class Window:
    """tokens: what is read, and one more. num_scored: how many of the last ones are scored."""

    tokens: tuple[int, ...]
    num_scored: int

    def first(self, num_scored: int) -> Window:
        """The same window, cut after its first `num_scored` scored tokens."""
        cut = self.num_scored - num_scored
        return Window(self.tokens[: len(self.tokens) - cut], num_scored)


def encode_documents(tokenizer: Tokenizer, texts: Iterable[str]) -> list[list[int]]:
    """Each text as token ids after a separator, so that its first token can be scored, too.

    The separator is the tokenizer's bos token, or the eos token where there is no bos; a text
    begins without one where there is neither.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    separator = eos if bos is None else bos
    documents = []
    for text in texts:
        ids = tokenizer.encode(text)
        if separator is not None and ids[:1] != [separator]:
            ids = [separator, *ids]
        documents.append(ids)
    return documents


def cut_windows(document: Sequence[int], context: int) -> list[Window]:
    """The windows of a document (T,), which score each of its tokens once but the first."""
    windows, scored = [], 1
    while scored < len(document):
        begin = 0 if scored == 1 else scored - context + context // 2
        tokens = tuple(document[begin : begin + context + 1])
        windows.append(Window(tokens, begin + len(tokens) - scored))
        scored = begin + len(tokens)
    return windows


def choose_windows(windows: Sequence[Window], num_tokens: int) -> list[Window]:
    """As many windows as score `num_tokens` together, the last one cut; all if there are fewer.

    They come in an order of which every beginning is spread evenly over the text, so that a
    measurement cut short has still seen all parts of it. Raises OptionError where there are none.
    """
    if not windows:
        raise OptionError(
            "the text has no token that could be scored; give one of at least two tokens"
        )
    # Those i for which the fraction of i times the golden ratio is small lie evenly apart.
    order = sorted(range(len(windows)), key=lambda i: i * _GOLDEN % 1)
    chosen, left = [], num_tokens
    for window in (windows[i] for i in order):
        if left <= 0:
            break
        chosen.append(window.first(min(window.num_scored, left)))
        left -= window.num_scored
    return chosen
