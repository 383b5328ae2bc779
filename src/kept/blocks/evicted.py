"""Keys of blocks that were evicted not long ago, to say so when somebody asks for them."""

from __future__ import annotations

from collections import OrderedDict

from kept.blocks.keys import TOKEN_BYTES, next_key


class Evicted:
    """The keys of the last `limit` blocks that were evicted; no tokens.

    Whatever it knows or has forgotten is right, so an exception may come between any two lines.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._keys: OrderedDict[bytes, None] = OrderedDict()
        # By the key before a block that was not full: how many tokens it had. A text that goes on
        # behind them has a block of another key there.
        self._sizes: OrderedDict[bytes, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, before: bytes, key: bytes, tokens: bytes, block: int) -> None:
        """Remember the block of these tokens, whose key is `key`, behind `before`."""
        self._keys[key] = None
        if len(self._keys) > self._limit:
            self._keys.popitem(last=False)
        if len(tokens) < block * TOKEN_BYTES:
            self._sizes[before] = len(tokens)
            if len(self._sizes) > self._limit:
                self._sizes.popitem(last=False)

    def discard(self, key: bytes) -> None:
        """The block is there again."""
        self._keys.pop(key, None)

    def clear(self) -> None:
        """Forget all."""
        self._keys.clear()
        self._sizes.clear()

    def has(self, before: bytes, piece: bytes) -> bool:
        """Whether the next block of a text, or the beginning of it that was known, was evicted."""
        if not self._keys:
            return False
        size = self._sizes.get(before, len(piece))
        return next_key(before, piece) in self._keys or (
            size < len(piece) and next_key(before, piece[:size]) in self._keys
        )
