"""What the threads of a process ask of its engines, and a forked child has nobody to wait for.

A child has the forking thread alone. Requests of the others would stay in its engines, hold their
blocks, and be computed to their ends by whoever steps.
"""

from __future__ import annotations

import os
import threading
from typing import Protocol
from weakref import WeakSet


class Forked(Protocol):
    """Something that a fork copies."""

    def only_thread(self, thread: int) -> None:
        """Let go of what other threads than this one have asked for; no lock may be taken."""


_forked: WeakSet[Forked] = WeakSet()


def watch(found: Forked) -> None:
    """Tell it in every forked child which thread there is, for as long as it lives."""
    _forked.add(found)


def _in_child() -> None:
    for found in list(_forked):
        found.only_thread(threading.get_ident())


os.register_at_fork(after_in_child=_in_child)
