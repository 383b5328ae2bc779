"""An engine's blocks and texts as a `BlockMap` and a list have them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np

from kept.blocks import BlockPool, KnownText, Stack, count_texts, list_texts
from kept.blocks.node import Node
from kept.cache import Cache
from kept.engine.known import Known
from kept.engine.view import BlockMap, BlockState, Owner

NOBODY: Final = Owner("", None)
MOST: Final = 0xFFFF  # that two bytes count


class Look(NamedTuple):
    """What `look` has found; see `EngineView`."""

    owners: tuple[Owner, ...]
    num_texts: tuple[int, ...]
    blocks: tuple[BlockMap, ...]


class _Draft:
    """A map in the making. What is taken is held by something that nobody has named yet."""

    def __init__(self, pool: BlockPool, window: int | None) -> None:
        self._pool, self.window, count = pool, window, pool.num_seen
        self.states, self.stored = np.zeros(count, np.uint8), np.zeros(count, np.bool_)
        self.owners, self.users = np.zeros(count, np.uint16), np.zeros(count, np.uint16)
        self.states[pool.taken_ids] = BlockState.READING

    def know(self, group: int, owner: int, counts: Mapping[Node[Stack], int]) -> None:
        """Note what can be found under one salt. counts: how many texts go through each node."""
        found = [
            (block.id, node.holds > 0, node.block.is_stored, count)
            for node, count in counts.items()
            if (block := node.block.blocks[group]) is not None
        ]
        if not found:
            return
        ids, held, stored, count = (np.array(x) for x in zip(*found, strict=True))
        is_held = held if self.window is None else np.zeros_like(held)
        # A block may be of several nodes: of a text, and of one that goes on in it.
        self.states[ids[~is_held]] = BlockState.FINDABLE
        self.states[ids[is_held]] = BlockState.HELD
        self.owners[ids], self.stored[ids] = min(owner, MOST), stored
        np.add.at(self.users, ids, np.minimum(count, MOST // 2).astype(np.uint16))

    def hold(self, ids: list[int], owner: int) -> None:
        """Note the blocks of a sequence that runs."""
        self.states[ids] = BlockState.HELD
        self.users[ids] += 1
        self.owners[ids] = np.where(self.owners[ids] == 0, min(owner, MOST), self.owners[ids])

    def finish(self) -> BlockMap:
        """The map."""
        pool = self._pool
        kept = self.states, self.owners, self.stored, self.users
        return BlockMap(self.window, pool.block_bytes, pool.num_blocks, *kept)


def look(cache: Cache, known: Known | None, slots: Mapping[int, Owner]) -> Look:
    """The blocks of a cache, and what is known of them. slots: whose those are that are taken."""
    owners: dict[Owner, int] = {NOBODY: 0}
    num_texts: Counter[int] = Counter()
    maps = [_Draft(*pair) for pair in zip(cache.pools, cache.windows, strict=True)]
    for root in [] if known is None else known.tree.roots():
        assert known is not None
        counts = count_texts(root)
        owner = owners.setdefault(Owner(root.salt, known.tenants.get(root.salt)), len(owners))
        num_texts[owner] = sum([not node.children for node in counts])
        for group, of in enumerate(maps):
            of.know(group, owner, counts)
    for slot, whose in slots.items():
        owner = owners.setdefault(whose, len(owners))
        for ids, of in zip(cache.slot_blocks(slot), maps, strict=True):
            of.hold(ids, owner)
    return Look(
        tuple(owners),
        tuple(num_texts[number] for number in owners.values()),
        tuple(of.finish() for of in maps),
    )


def texts_of(cache: Cache, known: Known) -> list[KnownText]:
    """The texts that can be found."""
    sizes = cache.group_bytes

    def measure(stack: Stack) -> tuple[int, bool]:
        pairs = zip(stack.blocks, sizes, strict=True)
        return sum([size for block, size in pairs if block is not None]), stack.is_stored

    return list_texts(known.tree.roots(), measure)
