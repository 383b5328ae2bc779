"""Requests that wait for another one to compute what they begin with, too."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heappop, heappush

from kept.blocks import BLOCK
from kept.engine.finding import Tokens, num_shared
from kept.engine.request import Phase, Request


@dataclass(frozen=True, slots=True)
class Hold:
    """Wait until `leader` has computed its first `num_tokens` tokens, or runs no more."""

    leader: Request
    num_tokens: int

    @property
    def is_over(self) -> bool:
        """Whether there is nothing to wait for."""
        leader = self.leader
        if leader.phase is not Phase.RUNNING or not leader.live:
            return True
        return leader.live[0].num_computed >= self.num_tokens


class Holds:
    """Those held, by their leader. A look costs by the number of leaders, not of followers."""

    def __init__(self) -> None:
        self._followers: dict[Request, list[tuple[int, tuple[float, int], Request, Hold]]] = {}
        self._num = 0

    def __len__(self) -> int:
        return self._num

    def add(self, request: Request, hold: Hold) -> None:
        """Hold a request that does not wait."""
        request.phase = Phase.HELD
        self._num += 1
        followers = self._followers.setdefault(hold.leader, [])
        heappush(followers, (hold.num_tokens, request.order, request, hold))

    def remove(self, request: Request) -> None:
        """Take out a request that is held; its place goes when it comes up."""
        request.phase = Phase.OUTSIDE
        self._num -= 1

    def take_free(self) -> list[Request]:
        """Take out those whose hold is over."""
        free = []
        for leader, followers in list(self._followers.items()):
            while followers:
                _, _, request, hold = followers[0]
                if request.phase is Phase.HELD:
                    if not hold.is_over:
                        break
                    self.remove(request)
                    free.append(request)
                heappop(followers)
            if not followers:
                del self._followers[leader]
        return free


def longest_shared(request: Request, tokens: Tokens, running: Iterable[Request]) -> Hold | None:
    """The running request that will compute most of these first tokens of another one's text, at
    least a block; None: none will."""
    best, most = None, BLOCK - 1
    for leader in running:
        if leader.has_caught_up or leader.salt != request.salt or len(leader.live) != 1:
            continue
        shared = num_shared(leader.live[0].history.tokens, tokens)
        if shared > most and shared > leader.live[0].num_computed:
            best, most = leader, shared
    return None if best is None else Hold(best, most)
