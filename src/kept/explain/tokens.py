"""Tokens as people can see them."""

from __future__ import annotations

from collections.abc import Sequence

from kept.text import Tokenizer

_VISIBLE = {" ": "\u2423", "\n": "\u21b5", "\t": "\u21e5"}  # open box, return, tab


def spell_tokens(tokenizer: Tokenizer | None, ids: Sequence[int]) -> tuple[str, ...]:
    """What each token adds to the text, with spaces and line ends made visible.

    Part of a character is the vocabulary's name for it; without a tokenizer a token is its id.
    """
    return tuple(_visible(_spell(tokenizer, ids, i)) for i in range(len(ids)))


def _spell(tokenizer: Tokenizer | None, ids: Sequence[int], index: int) -> str:
    if tokenizer is None:
        return str(ids[index])
    # The difference of two texts: some tokenizers drop the space of a token that stands alone.
    before = tokenizer.decode(ids[:index], skip_special_tokens=False)
    after = tokenizer.decode(ids[: index + 1], skip_special_tokens=False)
    added = after.removeprefix(before) if after.startswith(before) else ""
    if added and "\ufffd" not in added:
        return added
    return tokenizer.id_to_token(ids[index]) or str(ids[index])


def _visible(text: str) -> str:
    shown = (
        _VISIBLE.get(c, c) if c in _VISIBLE or c.isprintable() else repr(c)[1:-1] for c in text
    )
    return "".join(shown)
