"""Requests that wait, in the order in which they are to start."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Mapping, Sequence
from heapq import heapify, heappop, heappush, heapreplace

from kept.engine.fairness import FairShare
from kept.engine.request import Phase, Request


class Line:
    """What one tenant has waiting, first come first."""

    def __init__(self) -> None:
        self._requests: list[Request] = []  # the last is the first to go

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def head(self) -> Request:
        """The one that goes next."""
        return self._requests[-1]

    def add(self, request: Request) -> None:
        """Let it wait in the order of arrival, wherever it has been meanwhile."""
        insort(self._requests, request, key=_backwards)

    def remove(self, request: Request) -> None:
        """Take one out that waits here."""
        place = bisect_left(self._requests, _backwards(request), key=_backwards)
        assert self._requests[place] is request
        del self._requests[place]


def _backwards(request: Request) -> tuple[float, int]:
    arrival, number = request.order
    return -arrival, -number


class Class:
    """The waiting requests of one priority, by tenant.

    `_heap` holds the tenants by standing. Standings rise between two looks, so an entry may be too
    low: it is then put where it belongs when it comes up. Where one falls, `settle` says so.
    `_oldest` holds the requests by arrival, and some that wait no more.
    """

    def __init__(self, share: FairShare) -> None:
        self.share = share
        self._lines: dict[str, Line] = {}
        self._heap: list[tuple[float, tuple[float, int], str]] = []
        self._oldest: list[tuple[tuple[float, int], Request]] = []
        self._num = 0

    def __len__(self) -> int:
        return self._num

    def add(self, request: Request) -> None:
        """Let a request wait; its tenant is lifted where it had none waiting."""
        tenant = request.tenant
        if tenant not in self._lines:
            first = self.first(())
            if first is None:
                self.share.lift(tenant, None, 0.0)
            else:
                lowest = self.share.standing(first.tenant)
                self.share.lift(tenant, lowest, self.share.standing(self._longest().tenant))
        self.put(request)

    def put(self, request: Request) -> None:
        """Let a request wait, as one that does already."""
        tenant = request.tenant
        self._lines.setdefault(tenant, Line()).add(request)
        self._num += 1
        request.phase = Phase.WAITING
        heappush(self._oldest, (request.order, request))
        self.settle(tenant)

    def remove(self, request: Request) -> None:
        """Take out a request that waits here."""
        line = self._lines[request.tenant]
        line.remove(request)
        if not line:
            del self._lines[request.tenant]
        self._num -= 1
        request.phase = Phase.OUTSIDE
        if len(self._oldest) > 4 * self._num + 16:
            self._oldest = [entry for entry in self._oldest if entry[1].phase is Phase.WAITING]
            heapify(self._oldest)

    def settle(self, tenant: str) -> None:
        """Put a tenant where it belongs, as its standing has fallen or it has another head."""
        if tenant in self._lines:
            heappush(self._heap, self._entry(tenant))
        if len(self._heap) > 4 * len(self._lines) + 16:
            self._heap = [self._entry(name) for name in self._lines]
            heapify(self._heap)

    def first(self, aside: Collection[str]) -> Request | None:
        """The head of the neediest tenant that is not set aside; None where there is none.

        Forgets where those set aside belong: call `settle` for each afterwards.
        """
        while self._heap:
            entry = self._heap[0]
            tenant = entry[2]
            if tenant in self._lines and tenant not in aside:
                now = self._entry(tenant)
                if now <= entry:
                    return self._lines[tenant].head
                heapreplace(self._heap, now)
            else:
                heappop(self._heap)
        return None

    def _longest(self) -> Request:
        """The request that has waited longest, of some that wait."""
        while self._oldest[0][1].phase is not Phase.WAITING:
            heappop(self._oldest)
        return self._oldest[0][1]

    def _entry(self, tenant: str) -> tuple[float, tuple[float, int], str]:
        return self.share.standing(tenant), self._lines[tenant].head.order, tenant


class Waiting:
    """All that wait: by priority, then by the tenants' standing, then by arrival.

    Each priority has counters of its own: what a tenant is served at one is no debt at another.
    """

    def __init__(self, slots: int, weights: Mapping[str, float] | None = None) -> None:
        """slots, weights: see `FairShare`, whose errors this raises."""
        FairShare(slots, weights)  # refuses at once what it would refuse later
        self._slots, self._weights = slots, weights
        self._classes: dict[int, Class] = {}

    def __len__(self) -> int:
        # Listed in one stroke: another thread may look for work while a step adds to these.
        return sum(map(len, list(self._classes.values())))

    def holding(self, requests: Sequence[Request]) -> Waiting:
        """Another in which these requests wait and no others, and their tenants' counters are
        those of this one."""
        twin = Waiting(self._slots, self._weights)
        for priority in {request.priority for request in requests} & self._classes.keys():
            twin._classes[priority] = Class(self.share(priority).emptied())
        for request in requests:
            twin.enter(request)
        for request in requests:
            twin._classes[request.priority].put(request)
        return twin

    def share(self, priority: int) -> FairShare:
        """The counters of the tenants that have requests of this priority."""
        return self._classes[priority].share

    def enter(self, request: Request) -> None:
        """Count a request that is new; it does not wait yet."""
        if request.priority not in self._classes:
            self._classes[request.priority] = Class(FairShare(self._slots, self._weights))
        self.share(request.priority).enter(request.tenant)

    def leave(self, request: Request) -> None:
        """Forget a request that has ended and does not wait."""
        share = self.share(request.priority)
        share.leave(request.tenant)
        if share.is_idle:
            del self._classes[request.priority]

    def add(self, request: Request) -> None:
        """Let one wait that has entered."""
        self._classes[request.priority].add(request)

    def remove(self, request: Request) -> None:
        """Take out one that waits."""
        self._classes[request.priority].remove(request)

    def first(self, aside: Sequence[Request]) -> Request | None:
        """The most deserving, not counting the tenants of those set aside; None: nobody.

        Forgets where those set aside belong: call `settle` for each afterwards.
        """
        for priority in sorted(self._classes, reverse=True):
            tenants = [request.tenant for request in aside if request.priority == priority]
            found = self._classes[priority].first(tenants)
            if found is not None:
                return found
        return None

    def settle(self, request: Request) -> None:
        """Put the request's tenant where it belongs, as its standing may have fallen."""
        self._classes[request.priority].settle(request.tenant)
