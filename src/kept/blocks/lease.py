"""A claim on a prefix in a tree, which keeps its blocks from being evicted.

It holds the last block alone: blocks before it are followed by one, and only blocks that nothing
follows are evicted. So taking, extending and releasing it costs the same at any length.

A lease that nobody has any more, because an exception came before it was stored or released, ends
by itself: a method of a deque, in C, notes that it has gone, and the tree's next call looks there.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from kept.blocks.node import Node

B = TypeVar("B")


class Hold(weakref.ref["Lease[Any]"]):
    """What the tree knows of a lease. claim: the last block that it holds, and how many tokens its
    text has up to there, in one so that they change in one; None: it was released."""

    __slots__ = ("claim",)
    claim: tuple[Node[Any], int] | None


class Lease(Generic[B]):
    """A claim on a prefix; released with `release`, at the end of a `with`, or when it is dropped.

    salt: that of the text. hold: what the tree knows of it. Not safe to use from several threads at
    once, as the tree.
    """

    __slots__ = ("__weakref__", "_end", "hold", "salt")
    hold: Hold

    def __init__(self, salt: str, end: Callable[[Hold], None]) -> None:
        self.salt = salt
        self._end = end

    @property
    def num_tokens(self) -> int:
        """How many first tokens of the text lie in the blocks it holds; 0 when it was released."""
        return 0 if self.hold.claim is None else self.hold.claim[1]

    def release(self) -> None:
        """Give up the claim; a second time changes nothing."""
        self._end(self.hold)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def last_filled(lease: Lease[B], block: int) -> Node[B]:
    """The last node that the text of a lease fills."""
    assert lease.hold.claim is not None
    node, num_tokens = lease.hold.claim
    if node.depth > num_tokens // block:
        assert node.parent is not None
        node = node.parent
    return node
