"""Reads from a store, as the engine knows them: for whom, into which blocks, and who waits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from kept.blocks import Lease, Stack
from kept.cache import BlockBytes
from kept.engine.continuation import Continuation
from kept.engine.finding import Tokens
from kept.engine.holds import Hold
from kept.store import Found, Read, Section


class Landing:
    """Blocks of the pool that files are read into. stacks: one for each block that is read."""

    def __init__(self, copy: BlockBytes, stacks: Sequence[Stack]) -> None:
        self._copy, self.stacks = copy, tuple(stacks)

    def prepare(self, indices: Sequence[int], group: int) -> None:
        """See `Sink.prepare`."""
        blocks = [self.stacks[index].blocks[group] for index in indices]
        self._copy.prepare(group, [block for block in blocks if block is not None])

    def put(self, index: int, group: int, data: memoryview) -> None:
        """See `Sink.put`."""
        block = self.stacks[index].blocks[group]
        assert block is not None, "a block of each group that is read"
        self._copy.copy_in(group, block, data)


@dataclass(slots=True, eq=False)
class Reading:
    """A read for one sequence. tokens: of its text. first: blocks of it that the tree has, which
    `lease` holds."""

    read: Read
    landing: Landing
    lease: Lease[Stack]
    tokens: Tokens
    first: int
    found: Found


@dataclass(slots=True, eq=False)
class Starting:
    """The names of the store are still being read."""

    section: Section
    deadline: float

    @property
    def is_over(self) -> bool:
        """Whether there is nothing to wait for."""
        return self.section.is_ready.is_set() or time.monotonic() > self.deadline

    def wait(self, timeout: float) -> None:
        """Wait until it is over, for so many seconds at most."""
        self.section.is_ready.wait(max(0.0, min(timeout, self.deadline - time.monotonic())))


@dataclass(frozen=True, slots=True)
class ReadHold(Hold):
    """Wait for the store. leader: the request itself."""

    waits_for: Read | Starting

    @property
    def is_over(self) -> bool:
        """See `Hold.is_over`."""
        return self.waits_for.is_over


@dataclass(slots=True)
class Asked:
    """What is known of a request that waits. keys: of the root and the blocks of each sequence,
    with its length then. tries: reads so far. came: from which token of its first sequence to
    which was read from files. fault: what went wrong with them."""

    since: float
    keys: dict[Continuation, tuple[int, list[bytes]]] = field(default_factory=dict)
    tries: dict[Continuation, int] = field(default_factory=dict)
    came: tuple[int, int] = (0, 0)
    fault: str | None = None
