"""Requests that wait for another one to compute what they begin with, too."""

from __future__ import annotations

from collections import Counter
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
        self._held: dict[Request, Hold] = {}
        self._priorities: dict[Request, Counter[int]] = {}  # of each leader's followers

    def __len__(self) -> int:
        return len(self._held)

    def urgency(self, request: Request) -> int:
        """Its priority, or the highest of those who wait for what it computes."""
        waiting = self._priorities.get(request)
        return max(request.priority, *waiting) if waiting else request.priority

    def add(self, request: Request, hold: Hold) -> None:
        """Hold a request that does not wait."""
        request.phase = Phase.HELD
        self._held[request] = hold
        self._priorities.setdefault(hold.leader, Counter())[request.priority] += 1
        followers = self._followers.setdefault(hold.leader, [])
        heappush(followers, (hold.num_tokens, request.order, request, hold))

    def remove(self, request: Request) -> None:
        """Take out a request that is held; its place goes when it comes up."""
        request.phase = Phase.OUTSIDE
        leader = self._held.pop(request).leader
        waiting = self._priorities[leader]
        waiting[request.priority] -= 1
        if not waiting[request.priority]:
            del waiting[request.priority]
        if not waiting:
            del self._priorities[leader]

    def take_free(self) -> list[Request]:
        """Take out those whose hold is over."""
        free = []
        for leader, followers in list(self._followers.items()):
            while followers:
                _, _, request, hold = followers[0]
                if self._held.get(request) is hold:
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
    if len(tokens) <= most:
        return None
    for leader in running:
        if leader.has_caught_up or leader.key_salt != request.key_salt or len(leader.live) != 1:
            continue
        shared = num_shared(leader.live[0].history.tokens, tokens)
        if shared > most and shared > leader.live[0].num_computed:
            best, most = leader, shared
    return None if best is None else Hold(best, most)
