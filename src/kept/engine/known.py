"""What an engine's ended and running texts have computed that others can go on from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from typing import Final

from kept.blocks import (
    BLOCK,
    Block,
    Lease,
    Match,
    Namespace,
    PrefixTree,
    Stack,
    WindowShelf,
    blocks_of,
)
from kept.cache import Cache, first_needed
from kept.engine.continuation import Continuation
from kept.engine.finding import Tokens, find, findable, num_usable, only_whole

MOST_REMEMBERED: Final = 16_384  # blocks that went, of 200 to 430 bytes each
LEAST_REMEMBERED: Final = 64
MOST_SALTS = 64  # without texts whose owners are not worth sweeping


class Known:
    """The prefix tree of a cache's texts, and in which order its blocks make way for others.

    Spare blocks of layers with a window go first, then whichever was used least recently: the last
    block of a text, or what its windowed layers hold inside of a text.
    """

    def __init__(self, cache: Cache, space: Namespace | None = None) -> None:
        """space: what keys depend on beside tokens; None: no more than the cache, as one engine's
        model and kernels are the same for all of its texts."""
        self._cache, self._windows = cache, cache.windows
        space = space or Namespace("", "", "", cache.codec.name, self._windows)
        self.tree: PrefixTree[Stack] = PrefixTree(
            space,
            again=Stack.take_in,
            memory=self._kept_block,
            remembered=_num_remembered(cache),
        )
        sizes = list(zip(self._windows, cache.group_bytes, strict=True))
        self._all_bytes = sum(size for window, size in sizes if window is None)
        self._window_sizes = [None if window is None else size for window, size in sizes]
        self.shelf = WindowShelf(self._window_sizes)
        self.tenants: dict[str, str | None] = {}  # whose the texts of a salt are, None: of several

    def note_owner(self, salt: str, tenant: str) -> None:
        """Note that a tenant has texts under a salt."""
        if self.tenants.setdefault(salt, tenant) != tenant:
            self.tenants[salt] = None
        if len(self.tenants) > 2 * self.tree.num_salts + MOST_SALTS:
            salts = {root.salt for root in self.tree.roots()}
            self.tenants = {x: whose for x, whose in self.tenants.items() if x in salts}

    def find(self, continuation: Continuation, salt: str) -> Match[Stack]:
        """What is known of a continuation's text, leased."""
        return find(self.tree, self._windows, findable(continuation), salt)

    def num_known(self, tokens: Tokens, salt: str) -> int:
        """How many first tokens of a text somebody could go on from."""
        with self.tree.match(tokens, salt) as match:
            return num_usable(match, self._windows)

    def only_whole(
        self, match: Match[Stack], continuation: Continuation, salt: str
    ) -> Match[Stack]:
        """A match, leased in its place, without a last block of which some tokens alone were
        found."""
        return only_whole(self.tree, self._windows, match, findable(continuation), salt)

    def insert(
        self,
        tokens: Tokens,
        stacks: Sequence[Stack],
        salt: str,
        lease: Lease[Stack] | None,
        *,
        ends: bool,
        retain: float = 0.0,
    ) -> Lease[Stack]:
        """Make a text findable; see `PrefixTree.insert`. ends: whether somebody is likely to go on
        from its end. retain: for how many seconds from now it counts as used."""
        first = 0 if lease is None else lease.num_tokens // BLOCK
        lease = self.tree.insert(tokens, stacks, salt, lease, retain=retain)
        begin = min(first, self._first_wanted(len(tokens))) if ends else first
        held = self.tree.held(lease, begin)
        self.shelf.put(held[first - begin :], wanted=False)
        if ends:
            self._want(held, begin, len(tokens), retain)
        return lease

    def gone_on(self, match: Match[Stack]) -> None:
        """Note that somebody goes on from a match."""
        self.tree.reuse(match.lease)
        self._want(match.blocks, 0, match.num_tokens)

    def num_bytes(self, matches: Iterable[Match[Stack]] = ()) -> int:
        """Bytes that could make way; matches: what is to stay besides what the cache's slots and
        leases hold."""
        bytes_of_all = self.tree.num_evictable * self._all_bytes
        held = self._cache.held_ids
        matched = [self._needed(match) for match in matches]
        if not matched:
            return bytes_of_all + self.shelf.num_bytes(held)
        stay = [ids.union(*(each[group] for each in matched)) for group, ids in enumerate(held)]
        return bytes_of_all + self.shelf.num_bytes(stay)

    def matched_bytes(self, match: Match[Stack]) -> int:
        """Bytes of the whole blocks that whoever goes on from a match takes over."""
        pairs = zip(self._needed(match, whole=True), self._window_sizes, strict=True)
        windowed = sum(len(ids) * size for ids, size in pairs if size is not None)
        return match.num_tokens // BLOCK * self._all_bytes + windowed

    @property
    def oldest(self) -> float | None:
        """When what `evict` lets go of was last used, as `time.monotonic` counts; 0.0: nobody is
        likely to go on from it, None: there is nothing."""
        held = self._cache.held_ids
        if self.shelf.oldest(held, wanted=False) is not None:
            return 0.0
        found = self.shelf.oldest(held, wanted=True), self.tree.oldest
        return min((used for used in found if used is not None), default=None)

    def evict(self, until: float = inf) -> bool:
        """Let go of the blocks that go first, of what was last used `until` then; whether there
        were any."""
        held = self._cache.held_ids
        if self.shelf.evict(held, wanted=False):
            return True
        wanted, text = self.shelf.oldest(held, wanted=True), self.tree.oldest
        if wanted is not None and (text is None or wanted < text):
            return wanted <= until and self.shelf.evict(held, wanted=True)
        return self.tree.evict(1, until) > 0

    def _kept_block(self, stack: Stack) -> Block | None:
        """What a stack holds for layers without a window; None: there are none."""
        pairs = zip(stack.blocks, self._windows, strict=True)
        return next((block for block, window in pairs if window is None), None)

    def _needed(self, match: Match[Stack], *, whole: bool = False) -> list[set[int]]:
        """Of each group with a window, the numbers of the blocks that the next token sees. whole:
        without a last one that is not full, which is copied."""
        found, length = [], match.num_tokens
        end = length // BLOCK if whole else len(match.blocks)
        for group, window in enumerate(self._windows):
            begin = end if window is None else first_needed(window, length) // BLOCK
            blocks = [stack.blocks[group] for stack in match.blocks[begin:end]]
            found.append({block.id for block in blocks if block is not None})
        return found

    def _want(self, stacks: Sequence[Stack], first: int, length: int, retain: float = 0.0) -> None:
        """Note that somebody goes on, or is likely to, behind so many tokens. stacks: of the blocks
        from number `first` on."""
        wanted = stacks[max(0, self._first_wanted(length) - first) :]
        self.shelf.put(wanted, wanted=True, retain=retain)

    def _first_wanted(self, length: int) -> int:
        """The first block that a window sees behind so many tokens."""
        windows = [window for window in self._windows if window is not None]
        if not windows:
            return blocks_of(length)
        return first_needed(max(windows), length) // BLOCK


def _num_remembered(cache: Cache) -> int:
    """Of how many blocks that went it is known that they were there: of as many as there are, so
    that it takes little beside them."""
    most = min((pool.num_blocks for pool in cache.pools), default=0)
    return min(max(most, LEAST_REMEMBERED), MOST_REMEMBERED)
