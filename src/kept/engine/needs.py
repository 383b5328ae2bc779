"""How many bytes of a pool requests need."""

from __future__ import annotations

from kept.blocks import BLOCK
from kept.cache import Cache, most_blocks
from kept.engine.request import Request
from kept.engine.window import ContextRule


def blocks_of(num_tokens: int) -> int:
    """How many blocks so many tokens lie in."""
    return -(-num_tokens // BLOCK)


class Needs:
    """What sequences of a cache in blocks come to need.

    longest_step: tokens that one of them takes in a pass at most, None: any number. parks: whether
    a request may be parked, so that it starts with less than it needs to its end.
    """

    def __init__(
        self, cache: Cache, rule: ContextRule, longest_step: int | None, *, parks: bool
    ) -> None:
        self.block_bytes = cache.block_bytes
        self._groups = list(zip(cache.windows, cache.group_bytes, strict=True))
        self._rule, self._longest_step, self._parks = rule, longest_step, parks

    def of_tokens(self, num_tokens: int) -> int:
        """Bytes of the blocks that a sequence of so many tokens lies in at most at any time."""
        step = num_tokens if self._longest_step is None else self._longest_step
        return sum(most_blocks(window, num_tokens, step) * size for window, size in self._groups)

    def to_start(self, request: Request) -> int:
        """Bytes that it needs until it has drawn a token of each text; where it cannot be parked,
        until its end."""
        if not self._parks:
            return self.at_most(request)
        longest = self.longest(request)
        own = sum(self.of_tokens(min(len(c.history) + 1, longest)) for c in request.live)
        return own + (request.width - len(request.live)) * self.block_bytes

    def longest(self, request: Request) -> int:
        """Tokens that a text of it may come to store."""
        longest = max(c.limit - c.offset - 1 for c in request.group.results)
        return min(longest, self._rule.length)

    def at_most(self, request: Request) -> int:
        """Bytes that it may come to need, with a block that each of several takes ahead."""
        ahead = self.block_bytes if request.width > 1 else 0
        return request.width * (self.of_tokens(self.longest(request)) + ahead)
