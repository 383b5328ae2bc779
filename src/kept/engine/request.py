"""One request: a group of sequences, whose it is, and how urgent."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from kept.blocks import LONGEST_RETAIN
from kept.engine.continuation import Continuation
from kept.engine.group import Group
from kept.errors import OptionError
from kept.models import Adapter


class Phase(Enum):
    """Where a request stands in its scheduler."""

    OUTSIDE = auto()  # not added yet, or done with
    WAITING = auto()
    HELD = auto()  # until another request has computed their common prefix
    RUNNING = auto()


class Event(NamedTuple):
    """What a step has come to: a text has a token more, or, where `continuation` is None, a request
    is finished. Texts of a beam search are known only at its end."""

    request: Request
    continuation: Continuation | None


@dataclass(slots=True, eq=False)
class Request:
    """A group, and what the scheduler has to know of it.

    tenant: whose it is; tenants of one priority get equal shares. priority: higher goes first,
    always. deadline: a time of the engine's clock, in seconds, after which nobody wants it; None:
    never. salt: requests of different salts share no keys. retain: for how many seconds after its
    end its text counts as used, where others need its blocks; a wish, up to `LONGEST_RETAIN`: it
    goes all the same where nothing else is left. interactive: somebody reads along, so
    that its next token must not wait for a long prompt. arrival: a time of the engine's clock.
    on_event: called with each `Event` of it, in the thread that steps and before the next step; it
    must not wait, nor call the engine but for `submit` and `cancel`, and what it raises ends the
    request (and is raised by the step where it is no Exception). adapter: of the model, that its
    texts go through; None: none.
    Raises OptionError for a `retain` out of bounds.

    The fields behind are the scheduler's, which changes them as it goes along.
    """

    group: Group
    tenant: str = ""
    priority: int = 0
    deadline: float | None = None
    salt: str = ""
    retain: float = 0.0
    interactive: bool = False
    arrival: float = field(default_factory=time.monotonic)
    on_event: Callable[[Event], object] | None = None
    adapter: Adapter | None = None

    phase: Phase = field(default=Phase.OUTSIDE, init=False)
    asked_by: int | None = field(default=None, init=False)  # the thread that submitted it
    number: int = field(default=-1, init=False)  # in the order of their coming
    started_at: float = field(default=math.inf, init=False)  # its tenant's standing then
    num_promised: int = field(default=0, init=False)  # prompt tokens charged ahead
    reads_from: float | None = field(default=None, init=False)  # `Turn.read` as that began
    has_caught_up: bool = field(default=False, init=False)  # nothing left to read but what it draws
    pass_error: Exception | None = field(default=None, init=False)  # of a pass it was in
    refused_with: int | None = field(default=None, init=False)  # bytes nobody needed then
    refused_at: float | None = field(default=None, init=False)  # cost served to all by then

    def __post_init__(self) -> None:
        if not 0 <= self.retain <= LONGEST_RETAIN:
            raise OptionError(
                f"retain={self.retain} is out of 0 to {LONGEST_RETAIN:,.0f} seconds; give "
                "one of these"
            )

    @property
    def width(self) -> int:
        """How many slots it may come to need."""
        return self.group.width

    @property
    def key_salt(self) -> str:
        """What its keys are found under: its salt, and which adapter they come of. No salt without
        an adapter is one with an adapter."""
        if self.adapter is not None:
            return f"\0{self.adapter.digest}\0{self.salt}"
        return f"\0\0{self.salt}" if self.salt.startswith("\0") else self.salt

    @property
    def live(self) -> Sequence[Continuation]:
        """The sequences that go on."""
        return self.group.live

    @property
    def finished(self) -> bool:
        """Whether every result is final."""
        return self.group.finished

    @property
    def order(self) -> tuple[float, int]:
        """Its place among the requests of its tenant: first come, first served."""
        return self.arrival, self.number

    @property
    def rank(self) -> tuple[int, float, float, int]:
        """How deserving it is while it runs, the most deserving first.

        Its tenant's standing counts as it was when the request started. As it is now, it would rise
        with every token, and the one that parks another would soon be parked by it.
        """
        return -self.priority, self.started_at, self.arrival, self.number
