"""An engine as people may look at it: what its blocks hold, who runs, who waits, and what was done
last. Plain data, of one moment between two steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kept.blocks import KnownText
from kept.engine.counters import Snapshot


class BlockState(IntEnum):
    """What a block of a pool is to those who want blocks."""

    FREE = 0  # nobody holds it
    FINDABLE = 1  # it holds some of a text that has ended, and goes when others need it
    HELD = 2  # sequences that run need it
    READING = 3  # files are being read into it


@dataclass(frozen=True, slots=True, eq=False)
class BlockMap:
    """The blocks of one group of layers, by their numbers.

    window: the group's, None: it keeps all tokens. block_bytes: of each. num_blocks: how many there
    can be; those behind the arrays' ends have never been taken. states: (P,) uint8 of
    `BlockState`. owners: (P,) uint16, an index into `EngineView.owners`. stored: (P,) bool, whether
    a block was read from files, other than computed. users: (P,) uint16: how many known texts and
    running sequences it is of.
    """

    window: int | None
    block_bytes: int
    num_blocks: int
    states: NDArray[np.uint8]
    owners: NDArray[np.uint16]
    stored: NDArray[np.bool_]
    users: NDArray[np.uint16]

    def count(self, state: BlockState) -> int:
        """How many blocks are in a state; those never taken are free."""
        found = int((self.states == state).sum())
        return found + (self.num_blocks - len(self.states)) * (state is BlockState.FREE)


class Owner(NamedTuple):
    """Whose texts are under a salt. tenant: None: several have that salt in common."""

    salt: str
    tenant: str | None


class StepNote(NamedTuple):
    """A step that computed something. number: of the engine's steps. ended: when, as
    `time.monotonic` counts. seconds: all of it. read, decoded, drafted: rows of prompts, of
    sequences that write, and of drafts. drawn: tokens. running: requests."""

    number: int
    ended: float
    seconds: float
    read: int
    decoded: int
    drafted: int
    drawn: int
    running: int


@dataclass(frozen=True, slots=True)
class RequestNote:
    """A request, as far as it has come. number: in the order of coming. state: "waiting",
    "running" or how it ended; see `Counters.requests`. waits_for: what a waiting one lacks:
    "prefix" (another computes it, or files are read), "memory", or "slots". age: seconds since it
    came. The rest is as in `Completion`, over all of its texts."""

    number: int
    tenant: str
    priority: int
    state: str
    waits_for: str | None
    age: float
    prompt_tokens: int
    cached_from: Mapping[str, int]
    miss_reason: str | None
    miss: str | None
    computed_tokens: int
    generated_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    queue_time: float | None
    time_to_first_token: float | None
    ended: float | None


@dataclass(frozen=True, slots=True)
class TenantShare:
    """A tenant's requests, and what was computed for it. cost: `PROMPT_COST` and `OUTPUT_COST` a
    token since it was first seen, of all priorities."""

    tenant: str
    weight: float
    waiting: int
    running: int
    cost: float


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes of keys and values. limit: that all engines of a room may take together, None: any.
    taken: that they have reserved. held, findable: of this engine's blocks."""

    limit: int | None
    taken: int
    held: int
    findable: int


@dataclass(frozen=True, slots=True, eq=False)
class EngineView:
    """An engine at one moment.

    at: as `time.monotonic` counts. seconds: that looking took, while no step was taken. owners: of
    texts; the first is nobody in particular. blocks: a map for each group of layers, none where
    there is no pool. num_texts: of each owner, that can be found; texts: these, where they were
    asked for. running, waiting: requests, the latter in the order
    of coming. ended: the last ones, the latest last. steps: the last ones. num_waiting: all that
    wait, also those not in `waiting`.
    """

    at: float
    snapshot: Snapshot
    owners: tuple[Owner, ...]
    blocks: tuple[BlockMap, ...]
    num_texts: tuple[int, ...]
    texts: tuple[KnownText, ...]
    running: tuple[RequestNote, ...]
    waiting: tuple[RequestNote, ...]
    ended: tuple[RequestNote, ...]
    steps: tuple[StepNote, ...]
    memory: MemoryUse
    tenants: tuple[TenantShare, ...]
    num_waiting: int
    seconds: float

    def tenant_of(self, text: KnownText) -> str | None:
        """Whose a text is; None: several tenants have its salt in common."""
        return next((x.tenant for x in self.owners[1:] if x.salt == text.salt), None)
