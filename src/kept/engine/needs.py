"""How many bytes of a pool requests need."""

from __future__ import annotations

from collections.abc import Sequence

from kept.cache import Cache, most_blocks
from kept.engine.request import Request
from kept.engine.window import ContextRule


def longest_text(request: Request, rule: ContextRule) -> int:
    """Tokens that a text of a request may come to store."""
    longest = max(c.limit - c.offset - 1 for c in request.group.results)
    return longest if rule.in_place else min(longest, rule.length)


class Needs:
    """What sequences of a cache in blocks come to need.

    rule: at the end of the context. longest_step: tokens that one of them takes in a pass at most,
    None: any number. parks: whether a request may be parked, so that it starts with less than it
    needs to its end.
    """

    def __init__(
        self, cache: Cache, rule: ContextRule, longest_step: int | None, *, parks: bool
    ) -> None:
        self._cache, self._windows, self._sinks = cache, cache.windows, cache.sinks
        self._sizes = cache.group_bytes
        self._rule, self._longest_step, self._parks = rule, longest_step, parks

    def most_blocks(self, request: Request) -> list[int]:
        """(groups,) blocks that it may come to need, with one that each of several takes ahead."""
        each, ahead = self._blocks_of(longest_text(request, self._rule)), int(request.width > 1)
        return [request.width * (count + ahead) for count in each]

    def most(self, request: Request) -> int:
        """Bytes of these."""
        return self._bytes_of(self.most_blocks(request))

    def to_start(self, request: Request) -> int:
        """Bytes that it needs until it has drawn a token of each text; where it cannot be parked,
        until its end."""
        if not self._parks:
            return self.most(request)
        longest = longest_text(request, self._rule)
        lengths = [min(len(c.history) + 1, longest) for c in request.live]
        own = sum(self._bytes_of(self._blocks_of(length)) for length in lengths)
        return own + (request.width - len(request.live)) * sum(self._sizes)

    def promised(self, running: Sequence[Request]) -> int:
        """Bytes that running requests need to have started, and do not hold; of those that cannot
        be parked none, as they are set aside."""
        found = 0
        for request in running if self._parks else ():
            slots = [c.slot for c in request.live if c.slot is not None]
            found += max(0, self.to_start(request) - self._cache.slot_bytes(*slots))
        return found

    def _blocks_of(self, num_tokens: int) -> list[int]:
        """(groups,) blocks that a sequence of so many tokens lies in at most at any time."""
        step = num_tokens if self._longest_step is None else self._longest_step
        pairs = zip(self._windows, self._sinks, strict=True)
        return [most_blocks(window, num_tokens, step, sinks) for window, sinks in pairs]

    def _bytes_of(self, blocks: Sequence[int]) -> int:
        return sum(count * size for count, size in zip(blocks, self._sizes, strict=True))
