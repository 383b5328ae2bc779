"""What an engine tells the room that it shares with others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from kept.cache import Cache
from kept.engine.residents import Residents
from kept.engine.room import Room
from kept.engine.scheduler import Scheduler


class Lending(ABC):
    """The side of an `Engine` that other engines see: a `Lender`.

    An engine that an exception has left in the middle of a change lends nothing until somebody has
    it step again.
    """

    room: Room
    scheduler: Scheduler
    _residents: Residents
    _is_whole = True  # no exception has come in the middle of a change

    @property
    @abstractmethod
    def has_work(self) -> bool:
        """Whether any request is unfinished."""

    @abstractmethod
    def advance(self, is_done: Callable[[], bool]) -> None:
        """Return once a step has been taken or `is_done`."""

    @property
    def cache(self) -> Cache | None:
        """What holds keys and values; None: nothing does, or for now."""
        return self._residents.cache

    @property
    def is_busy(self) -> bool:
        """See `Lender.is_busy`."""
        return self.has_work

    @property
    def is_running(self) -> bool:
        """See `Lender.is_running`."""
        return bool(self.scheduler.running) or (self.has_work and not self._is_whole)

    @property
    def promised(self) -> int:
        """See `Lender.promised`."""
        return self._residents.promised(self.scheduler.running)

    @property
    def returnable(self) -> int:
        """See `Lender.returnable`."""
        return self._residents.returnable if self._may_lend else 0

    def oldest(self, to_itself: bool) -> float | None:
        """See `Lender.oldest`."""
        return self._residents.oldest(to_itself) if self._may_lend else None

    def give_back(self, num_bytes: int, until: float, to_itself: bool) -> None:
        """See `Lender.give_back`."""
        self._residents.give_back(num_bytes, until, to_itself)

    def help(self) -> None:
        """See `Lender.help`."""
        self.advance(lambda: False)

    @property
    def _may_lend(self) -> bool:
        return self._is_whole or self.room.changing is self
