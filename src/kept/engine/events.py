"""What a step has come to."""

from __future__ import annotations

from typing import NamedTuple

from kept.engine.continuation import Continuation
from kept.engine.request import Request


class Event(NamedTuple):
    """A text has a token more, or, where `continuation` is None, a request is finished.

    Texts of a beam search are known only at its end.
    """

    request: Request
    continuation: Continuation | None
