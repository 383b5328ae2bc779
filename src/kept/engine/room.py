"""Room for keys and values that several engines share: who gives some back, and who waits for it.

    taken by running texts | taken by texts that have ended | free
                             <- goes, least recently used first

What a text needs that starts comes out of what is free and of what may go, less what running texts
are still promised, and less what others have waited for longer. So a kind of cache that is busy
gets no more of it, once another has come, than its running texts grow by until they end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import count
from typing import Protocol
from weakref import WeakKeyDictionary, WeakValueDictionary

from kept.blocks import Budget
from kept.engine.errands import Errands
from kept.engine.request import Phase, Request


class Helper(Protocol):
    """Whom somebody waits for."""

    def help(self) -> None:
        """Do something for those who wait, in this thread."""


class Lender(Helper, Protocol):
    """Who keeps keys and values in a room, some of which may go."""

    @property
    def is_busy(self) -> bool:
        """Whether anybody waits for what it computes."""

    @property
    def is_running(self) -> bool:
        """Whether it computes for some of them, so that they let go of room in the end."""

    @property
    def promised(self) -> int:
        """Bytes that what runs may still take."""

    @property
    def returnable(self) -> int:
        """Bytes of what may go, and of what it has reserved for nothing."""

    def oldest(self, to_itself: bool) -> float | None:
        """When what would go first was last used, as `time.monotonic` counts; None: nothing can.
        to_itself: it asks for room itself."""

    def give_back(self, num_bytes: int, until: float, to_itself: bool) -> None:
        """Let about so many bytes go, at least something, of what was last used `until` then."""


class Room:
    """At most `limit` bytes of keys and values, None: any number.

    Lenders are asked and changed in the model's turn alone; what they hold they reserve of
    `budget`. changing: the engine that changes in that turn. errands: what other threads want done
    with any of them, which whoever steps sees to.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit, self.budget = limit, Budget(limit)
        self.changing: Lender | None = None
        self.errands = Errands()
        self._helping = threading.local()
        self._numbers = count()
        self._lenders: WeakValueDictionary[int, Lender] = WeakValueDictionary()
        # Of each lender, who could not start for want of room: since when, and the bytes it needs.
        self._claims: WeakKeyDictionary[Lender, dict[Request, tuple[int, int]]] = (
            WeakKeyDictionary()
        )

    def join(self, lender: Lender) -> None:
        """Know a lender for as long as it lives."""
        self._lenders[next(self._numbers)] = lender

    def spare(self, asker: Lender) -> int:
        """Bytes that a text of the asker's may start with, besides what its running ones need."""
        if self.limit is None:
            return self.budget.free
        every = self._every()
        room = self.budget.free + sum(lender.returnable for lender in every)
        room -= sum(lender.promised for lender in every if lender is not asker)
        return room - sum(num_bytes for _, num_bytes in self._before(asker))

    def make(self, lacking: Callable[[], int], asker: Lender) -> bool:
        """Have so many bytes free, at the cost of what may go: first of those who are idle, and of
        them, as of the others, what was used least recently. Whether there are."""
        while (missing := lacking()) > 0:
            every = [asker] if self.limit is None else self._every()
            found = [(x.is_busy, x.oldest(x is asker), x) for x in every]
            ready = [(busy, oldest, x) for busy, oldest, x in found if oldest is not None]
            if not ready:
                return False
            ready.sort(key=lambda entry: entry[:2])
            (busy, _, first), *others = ready
            until = min((oldest for other, oldest, _ in others if other == busy), default=INFINITE)
            first.give_back(missing, until, first is asker)
        return True

    def claim(self, asker: Lender, request: Request, num_bytes: int) -> None:
        """Note that a request of the asker's waits for so many bytes; it keeps its place."""
        claims = self._claims.setdefault(asker, {})
        since = claims.get(request)
        claims[request] = next(self._numbers) if since is None else since[0], num_bytes

    def withdraw(self, asker: Lender) -> None:
        """Forget what those of the asker's requests claim that wait no more."""
        claims = self._claims.get(asker)
        if claims is not None:
            for request in [x for x in claims if x.phase is not Phase.WAITING]:
                del claims[request]
            if not claims:
                del self._claims[asker]

    def who_goes_first(self, asker: Lender) -> Lender | None:
        """Who lets go of room before the asker can have any: one who runs, else one who waits for
        longer; None: nobody."""
        others = (lender for lender in self._every() if lender is not asker)
        running = next((lender for lender in others if lender.is_running), None)
        return running or next((lender for lender, _ in self._before(asker)), None)

    def have_go_on(self, helper: Helper) -> None:
        """Have whom a lender waits for go on, in this thread. Any thread may call."""
        if not getattr(self._helping, "others", False):  # whoever it waits for itself is not helped
            self._helping.others = True
            try:
                helper.help()
            finally:
                self._helping.others = False

    def _before(self, asker: Lender) -> list[tuple[Lender, int]]:
        """Of each other lender the claim that is oldest, where that is older than all the
        asker's."""
        oldest = {who: min(claims.values()) for who, claims in self._claims.items() if claims}
        own = oldest.pop(asker, None)
        since = next(self._numbers) if own is None else own[0]
        return [(who, needed) for who, (number, needed) in oldest.items() if number < since]

    def _every(self) -> list[Lender]:
        # Listed in one stroke: other threads may be making some.
        return [found for ref in self._lenders.valuerefs() if (found := ref()) is not None]


INFINITE = float("inf")
