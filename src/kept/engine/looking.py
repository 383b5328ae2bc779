"""An engine's blocks and texts as a `BlockMap` and a list have them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import numpy as np

from kept.blocks import BlockPool, KnownText, Stack, list_texts
from kept.cache import Cache
from kept.engine.known import Known
from kept.engine.view import BlockMap, BlockState, Owner

NOBODY: Final = Owner("", None)
MOST: Final = 0xFFFF  # that two bytes count
FINDABLE, HELD, READING = BlockState.FINDABLE, BlockState.HELD, BlockState.READING


class Look(NamedTuple):
    """What `look` has found; see `EngineView`."""

    owners: tuple[Owner, ...]
    blocks: tuple[BlockMap, ...]
    texts: tuple[KnownText, ...]


class _Draft:
    """A map in the making. What is taken is held by something that nobody has named yet."""

    def __init__(self, pool: BlockPool, window: int | None) -> None:
        self._pool, self.window, count = pool, window, pool.num_seen
        self.states, self.stored = bytearray(count), bytearray(count)
        self.owners, self.users = array("H", bytes(2 * count)), array("H", bytes(2 * count))
        for id in pool.taken_ids:
            self.states[id] = READING

    def know(self, id: int, owner: int, is_held: bool, is_stored: bool, num_texts: int) -> None:
        """Note that so many texts that can be found have a block."""
        if self.states[id] != HELD:
            self.states[id] = HELD if is_held else FINDABLE
        self.owners[id], self.stored[id] = owner, is_stored
        self.users[id] = min(MOST, self.users[id] + num_texts)

    def hold(self, ids: Iterable[int], owner: int) -> None:
        """Note the blocks of a sequence that runs."""
        for id in ids:
            self.states[id] = HELD
            self.users[id] = min(MOST, self.users[id] + 1)
            self.owners[id] = self.owners[id] or owner

    def finish(self) -> BlockMap:
        """The map."""
        return BlockMap(
            self.window,
            self._pool.block_bytes,
            self._pool.num_blocks,
            np.frombuffer(self.states, np.uint8),
            np.frombuffer(self.owners, np.uint16),
            np.frombuffer(self.stored, np.bool_),
            np.frombuffer(self.users, np.uint16),
        )


def look(cache: Cache, known: Known | None, slots: Mapping[int, Owner]) -> Look:
    """The blocks of a cache, and what is known of them. slots: whose those are that are taken."""
    owners: dict[Owner, int] = {NOBODY: 0}
    maps = [_Draft(*pair) for pair in zip(cache.pools, cache.windows, strict=True)]
    texts: list[KnownText] = []
    if known is not None:
        sizes = cache.group_bytes

        def measure(stack: Stack) -> tuple[int, bool]:
            pairs = zip(stack.blocks, sizes, strict=True)
            return sum([size for block, size in pairs if block is not None]), stack.is_stored

        texts, nodes = list_texts(known.tree.roots(), measure)
        whose, salt_before = 0, None
        for node, salt, num_texts in nodes:
            if salt != salt_before:
                owner, salt_before = Owner(salt, known.tenants.get(salt)), salt
                whose = min(MOST, owners.setdefault(owner, len(owners)))
            stack = node.block
            for block, of in zip(stack.blocks, maps, strict=True):
                if block is not None:
                    is_held = node.holds > 0 and of.window is None
                    of.know(block.id, whose, is_held, stack.is_stored, num_texts)
    for slot, owner in slots.items():
        whose = min(MOST, owners.setdefault(owner, len(owners)))
        for ids, of in zip(cache.slot_blocks(slot), maps, strict=True):
            of.hold(ids, whose)
    return Look(tuple(owners), tuple(of.finish() for of in maps), tuple(texts))
