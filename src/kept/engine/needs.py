"""How many blocks requests need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kept.blocks import BLOCK
from kept.engine.request import Request
from kept.engine.window import ContextRule


def blocks_of(num_tokens: int) -> int:
    """How many blocks so many tokens lie in."""
    return -(-num_tokens // BLOCK)


def longest_text(request: Request, rule: ContextRule) -> int:
    """Tokens that a text of a request may come to store."""
    longest = max(c.limit - c.offset - 1 for c in request.group.results)
    return longest if rule.in_place else min(longest, rule.length)


@dataclass(frozen=True, slots=True)
class Needs:
    """rule: at the end of the context. parkable: whether a request that runs can make room for
    others, and so need not have room to its end when it starts."""

    rule: ContextRule
    parkable: bool

    def most(self, request: Request) -> int:
        """Blocks that it may come to need, with one that each of several takes ahead."""
        each = blocks_of(longest_text(request, self.rule))
        return request.width * (each + (request.width > 1))

    def to_start(self, request: Request) -> int:
        """Blocks that it needs until it has drawn a token of each text; where it cannot be parked,
        until its end."""
        if not self.parkable:
            return self.most(request)
        longest = longest_text(request, self.rule)
        return (
            sum(blocks_of(min(len(c.history) + 1, longest)) for c in request.live)
            + request.width
            - len(request.live)
        )

    def promised(self, running: Sequence[Request]) -> int:
        """Blocks that running requests need to have started, and do not hold; of those that cannot
        be parked none, as they are set aside."""
        found = 0
        for request in running if self.parkable else ():
            held = sum(blocks_of(c.num_computed) for c in request.live)
            found += max(0, self.to_start(request) - held)
        return found
