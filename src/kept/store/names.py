"""The name of a file, which says what blocks it holds: names are the store's index.

    4f1d00c2a9b7-9a01...e3.kv        behind the block 4f1d00c2a9b7: the blocks 9a01..., ...e3
    4f1d00c2a9b7-9a01...e3-t21.kv    the last of them holds 21 tokens

Each block goes by a tag, the first 12 hex digits of its key, which is a hash of its tokens and of
everything before it (`blocks/keys.py`). So a name alone says which texts its file is of.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kept.blocks import BLOCK

SUFFIX, UNFINISHED = ".kv", ".tmp"
DIGITS = 12
MOST_BLOCKS = 16  # of a file: a name has at most 255 characters
_NAME = re.compile(
    rf"([0-9a-f]{{{DIGITS}}})-((?:[0-9a-f]{{{DIGITS}}}){{1,{MOST_BLOCKS}}})(?:-t(\d\d))?\.kv"
)


def tag_of(key: bytes) -> str:
    """What a block is called in names."""
    return key.hex()[:DIGITS]


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A file. after: the tag of the block, or root, that its first one follows. tags: of its
    blocks. num_last: tokens of the last. size: in bytes."""

    name: str
    after: str
    tags: tuple[str, ...]
    num_last: int
    size: int


def name_of(after: str, tags: list[str], num_last: int) -> str:
    """The name of a file of such blocks."""
    rest = "" if num_last == BLOCK else f"-t{num_last:02d}"
    return f"{after}-{''.join(tags)}{rest}{SUFFIX}"


def read_name(name: str, size: int) -> Entry | None:
    """What a name says; None: it is no file of a store."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    after, joined, rest = found.groups()
    tags = tuple(joined[i : i + DIGITS] for i in range(0, len(joined), DIGITS))
    num_last = BLOCK if rest is None else int(rest)
    return Entry(name, after, tags, num_last, size) if 0 < num_last <= BLOCK else None
