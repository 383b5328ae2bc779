"""What a prefix tree has of a sequence's text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kept.blocks import BLOCK, Match, Miss, PrefixTree, Reason, Stack, blocks_of
from kept.cache import first_needed
from kept.engine.continuation import Continuation
from kept.engine.counters import Counters
from kept.engine.usage import Usage
from kept.text import Tokenizer

Windows: TypeAlias = Sequence[int | None]  # of each group of layers, None: all tokens
Tokens: TypeAlias = NDArray[np.int64]


def findable(continuation: Continuation) -> NDArray[np.int64]:
    """What may be taken over of a text: all but its last token, whose logits are needed."""
    return continuation.history.tokens[:-1]


def num_shared(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    """How many first tokens two texts have in common."""
    length = min(len(a), len(b))
    differ = np.flatnonzero(a[:length] != b[:length])
    return int(differ[0]) if len(differ) else length


def find(tree: PrefixTree[Stack], windows: Windows, text: Tokens, salt: str) -> Match[Stack]:
    """What the tree has of a text, leased, as far as somebody can go on from it: to where the
    blocks of each window before it are there, too."""
    match = tree.match(text, salt)
    length = num_usable(match, windows)
    if length == match.num_tokens:
        return match
    with match:
        found = tree.match(text[:length], salt)
    return replace(found, miss=Miss(Reason.EVICTED, length))


def num_usable(match: Match[Stack], windows: Windows) -> int:
    """Up to which token of a match groups of layers with these windows have what the next needs."""
    length, before = match.num_tokens, -1
    while length != before:
        before = length
        for group, window in enumerate(windows):
            if window is not None:
                held = [stack.blocks[group] is not None for stack in match.blocks]
                length = _last_whole(held, window, length)
    return length


def _last_whole(held: Sequence[bool], window: int, length: int) -> int:
    """The most first tokens, of so many, of which all that the next one sees is held."""
    end = blocks_of(length)
    while end:
        begin = end
        while begin and held[begin - 1]:
            begin -= 1
        if begin < end and begin * BLOCK <= first_needed(window, length):
            return length
        end = begin if begin < end else end - 1
        length = end * BLOCK
    return 0


def only_whole(
    tree: PrefixTree[Stack], windows: Windows, match: Match[Stack], text: Tokens, salt: str
) -> Match[Stack]:
    """A match, leased in its place, without a last block of which some tokens alone were found."""
    num_rest = match.num_tokens % BLOCK
    if not num_rest:
        return match
    with match:
        found = find(tree, windows, text[: match.num_tokens - num_rest], salt)
    return replace(found, miss=match.miss)


def note_found(
    match: Match[Stack],
    source: str,
    usage: Usage,
    counters: Counters,
    tokenizer: Tokenizer | None,
    num_stored: int = 0,
    fault: str | None = None,
) -> None:
    """Note what of a prompt was found, and why no more. source: where that came from. tokenizer: to
    tell tokens apart in words, None: by their numbers. num_stored: tokens of it that were read from
    a store; fault: what went wrong there. Mutates usage and counters."""
    for name, count in ((source, match.num_tokens - num_stored), ("store", num_stored)):
        if count:
            usage.cached[name] = count
            counters.cached_tokens[name] += count
    if match.miss.reason is not Reason.WHOLE:
        usage.miss = _words(match.miss, tokenizer)
        if fault is not None:
            usage.miss += f"; what is stored of it was lost ({fault})"
        usage.miss_reason = match.miss.reason.value
        counters.misses[usage.miss_reason] += 1


def _words(miss: Miss, tokenizer: Tokenizer | None) -> str:
    if tokenizer is None:
        return str(miss)
    return miss.spelled(lambda token: tokenizer.decode([token], skip_special_tokens=False))
