"""Keys of blocks: a chain of hashes, each over all tokens up to the end of its block.

    root  = SHA-256(fields)              what keys and values depend on beside tokens, and the salt
    key i = SHA-256(key i - 1, tokens)   the tokens of block i as little-endian int64, 8 bytes each

`fields` are the strings of `Namespace.fields` in their order and the salt, in UTF-8, each behind
its length in bytes as a little-endian uint64, so no two lists of them come to the same bytes. A
block that is not full has a key as well, over the tokens that there are. Keys are meant to be
stored: whatever changes one changes `FORMAT`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kept.blocks.pool import BLOCK
from kept.errors import OptionError

FORMAT = "kept blocks 1"
TOKEN_BYTES = 8  # of a token in a key

Tokens: TypeAlias = Sequence[int] | NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Namespace:
    """What the keys and values of a prefix depend on beside its tokens.

    model: a fingerprint of the weights as they are multiplied. isa: the instruction set, since
    different ones round differently. kernels: the revision of the kernels. codec: how keys and
    values are stored. windows: the window of each group of layers in tokens, None: all tokens.
    block: tokens of a block. Raises OptionError for a block of less than one token.
    """

    model: str
    isa: str
    kernels: str
    codec: str
    windows: Sequence[int | None]
    block: int = BLOCK

    def __post_init__(self) -> None:
        if self.block < 1:
            raise OptionError(f"block={self.block} counts tokens; give at least 1")

    @property
    def fields(self) -> tuple[str, ...]:
        """What is hashed, in order, without the salt."""
        windows = ",".join("all" if window is None else str(window) for window in self.windows)
        return FORMAT, self.model, self.isa, self.kernels, self.codec, windows, str(self.block)

    def root(self, salt: str = "") -> bytes:
        """32 bytes: the key before the first block. Texts of different salts share no key."""
        # A lone surrogate, which a caller's string may hold, has bytes of its own as well.
        parts = [field.encode("utf-8", "surrogatepass") for field in (*self.fields, salt)]
        return sha256(b"".join(len(x).to_bytes(8, "little") + x for x in parts)).digest()


def next_key(key: bytes, tokens: bytes) -> bytes:
    """32 bytes: the key of the block that follows `key` and holds these tokens."""
    return sha256(key + tokens).digest()


def token_bytes(tokens: Tokens) -> bytes:
    """Tokens (N,), an array or a sequence of whole numbers, as keys hash them.

    Raises OptionError for anything else.
    """
    found = np.asarray(tokens)
    if found.ndim != 1 or not (found.size == 0 or np.can_cast(found.dtype, np.int64)):
        raise OptionError(
            f"tokens of shape {found.shape} and dtype {found.dtype} are no list of token ids; "
            "give whole numbers in one dimension"
        )
    return found.astype("<i8", copy=False).tobytes()


def token_ids(tokens: bytes) -> list[int]:
    """The tokens that `token_bytes` wrote."""
    found: list[int] = np.frombuffer(tokens, "<i8").tolist()
    return found


def chain(root: bytes, tokens: Tokens, block: int = BLOCK) -> Iterator[bytes]:
    """The keys of the whole blocks of a text, in order; `next_key` gives that of what is left."""
    data, size, key = token_bytes(tokens), block * TOKEN_BYTES, root
    for start in range(0, len(data) - size + 1, size):
        key = next_key(key, data[start : start + size])
        yield key


def num_common(a: bytes, b: bytes) -> int:
    """How many first tokens two pieces of `token_bytes` share."""
    size = min(len(a), len(b))
    x, y = np.frombuffer(a[:size], "<i8"), np.frombuffer(b[:size], "<i8")
    differ = x != y
    return int(differ.argmax()) if differ.any() else len(differ)
