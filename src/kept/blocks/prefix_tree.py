"""Texts that are computed, block by block, found again by their longest common prefix.

    root of a salt ── block ── block ── block       a text
                         └──── block ── part        another, which differs in its second block

A text is found by its tokens; hashes name blocks, and nothing counts as found for its hash alone.
A child with all tokens of a block is one look into a dict, and the one that shares most of them
stands next to the text's own block in order, so neither takes longer for more children.

Which block goes first: of those that nothing follows and no lease holds, the one of the lowest
rank. A rank is max(last use, until), in seconds of the clock: when the block, or one that followed
it, was last used, or until when it was to be retained, if that is later. It stands still while the
block is not used. So nothing is pinned and nobody starves: `evict` drops a block as long as one is
not leased, whatever was to be retained; a wish counts for `longest_retain` seconds at most, and a
block that has not been used for as long goes before every one that was used since.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from math import inf, isfinite
from typing import Final, Generic, TypeVar

from kept.blocks.dropping import drop_text
from kept.blocks.entries import Entry, list_entries
from kept.blocks.forest import Forest
from kept.blocks.invariants import check_tree
from kept.blocks.keys import TOKEN_BYTES, Namespace, Tokens, next_key, token_bytes, token_ids
from kept.blocks.lease import Lease, last_filled
from kept.blocks.match import Match, Miss, Reason
from kept.blocks.node import Node, Root
from kept.errors import OptionError

B = TypeVar("B")

LONGEST_RETAIN: Final = 3600.0  # seconds


class PrefixTree(Generic[B]):
    """Prefixes of texts and the blocks that hold them, whatever a block is.

    namespace: what keys and values depend on beside tokens, and how many tokens a block has.
    min_tokens: the fewest tokens that are worth sharing. remembered: of how many evicted blocks it
    knows that they were there. longest_retain: the most seconds a text may be retained. clock:
    seconds; injected by tests. again: called with a block that is held and one of the same tokens,
    where `insert` brings one. memory: of a block, what of it is free once all nodes with it have
    gone; None: itself.

    Not safe to use from several threads at once, so its owner has a lock; leases may be dropped
    anywhere. An exception between any two lines, such as Ctrl-C, leaves a tree that the next call
    puts right. Raises OptionError for min_tokens below 1, or remembered or longest_retain below 0.
    """

    def __init__(
        self,
        namespace: Namespace,
        *,
        min_tokens: int = 1,
        remembered: int = 16_384,
        longest_retain: float = LONGEST_RETAIN,
        clock: Callable[[], float] = time.monotonic,
        again: Callable[[B, B], object] | None = None,
        memory: Callable[[B], Hashable] | None = None,
    ) -> None:
        for name, value, least in (
            ("min_tokens", min_tokens, 1),
            ("remembered", remembered, 0),
            ("longest_retain", longest_retain, 0),
        ):
            if not value >= least:
                raise OptionError(f"{name}={value} is too little; give at least {least}")
        self.namespace = namespace
        self.min_tokens = min_tokens
        self.longest_retain = longest_retain
        self._again = again
        self._block = namespace.block
        self._full = namespace.block * TOKEN_BYTES  # bytes of a whole block's tokens
        self._forest: Forest[B] = Forest(namespace, remembered, clock, memory)
        self.ages = self._forest.ages  # of blocks that `evict` let go of, or `reuse` heard of

    @property
    def num_blocks(self) -> int:
        """How many nodes can be found, a block that several texts end in once for each."""
        self._forest.settle()
        return self._forest.tally.num_nodes

    @property
    def num_evictable(self) -> int:
        """How many blocks `evict` could let go of: those that no lease holds."""
        self._forest.settle()
        return self._forest.tally.num_evictable

    def match(self, tokens: Tokens, salt: str = "") -> Match[B]:
        """Find the longest prefix of a text that is known under a salt, to the token, and lease it.

        tokens: (N,) whole numbers. Counts as a use of what is found. Fewer than `min_tokens` are
        not given, though `miss` says how many there were. Raises OptionError for tokens that are
        none.
        """
        data, full = token_bytes(tokens), self._full
        self._forest.begin()
        root = self._forest.root(salt)
        node: Node[B] = root
        blocks = []
        for start in range(0, len(data) - full + 1, full):
            child = node.children.get(data[start : start + full])
            if child is None:
                break
            node = child
            blocks.append(node.block)
        piece = data[node.depth * full : (node.depth + 1) * full]
        near, shared = node.nearest(piece) if piece else (None, 0)
        miss = self._miss(node, piece, near, shared, len(data) // TOKEN_BYTES)
        if near is not None and shared:
            blocks.append(near.block)
            node = near
        num_tokens = miss.token
        if num_tokens < self.min_tokens:
            node, blocks, num_tokens = root, [], 0
        lease = self._forest.lease(node, salt, num_tokens)
        self._forest.finish()
        return Match(tuple(blocks), num_tokens, lease, miss)

    def insert(
        self,
        tokens: Tokens,
        blocks: Sequence[B],
        salt: str = "",
        lease: Lease[B] | None = None,
        retain: float = 0.0,
    ) -> Lease[B]:
        """Make a text findable under a salt; returns its lease, extended, or a new one.

        tokens: (N,). blocks: one for each `namespace.block` of them, the last perhaps not full.
        Blocks are taken where none of the same tokens is there, and behind what the lease holds. A
        block that is not full goes when a fuller one of the same beginning comes and nobody leases
        it. lease: of an earlier match or insert of the same text. What it holds is neither read nor
        hashed again, but for one block, to see that the text is the same; a block of which it
        holds some tokens alone it lets go. After `clear` it takes nothing in. retain: for how many
        seconds from now the text's blocks count as used.

        Raises OptionError for tokens that are none, a number of blocks that does not fit them, a
        lease that was released or is of another text, and a `retain` out of 0 to `longest_retain`.
        """
        self._check_call(len(tokens), len(blocks), retain)
        if lease is not None:
            self._check_lease(lease, salt, tokens)
        first = 0 if lease is None else lease.num_tokens // self._block
        data = token_bytes(tokens[first * self._block :])
        self._forest.begin()
        if lease is None:
            lease = self._forest.lease(self._forest.root(salt), salt)
        start = last_filled(lease, self._block)
        if self._forest.stands(start):
            end = self._extend(start, data, blocks[first:])
            end.last_use = self._forest.now()
            end.until = max(end.until, end.last_use + retain)
            self._forest.move(lease, end, len(tokens))
        self._forest.finish()
        return lease

    def reuse(self, lease: Lease[B]) -> None:
        """Note for `ages` that a text goes on from what its lease holds."""
        self._forest.begin()
        claim = lease.hold.claim
        if claim is not None and self._forest.stands(claim[0]):
            self._forest.reuse(claim[0])
        self._forest.finish()

    def held(self, lease: Lease[B], first: int = 0) -> list[B]:
        """The blocks that a lease holds, in order, from one on that is counted from 0."""
        return [node.block for node in self.path(lease, first)]

    def path(self, lease: Lease[B], first: int = 0) -> list[Node[B]]:
        """The nodes of these blocks, with their keys and tokens, to be read alone."""
        assert lease.hold.claim is not None, "a lease that was released holds none"
        found: list[Node[B]] = []
        node = lease.hold.claim[0]
        while node.depth > first:
            found.append(node)
            assert node.parent is not None
            node = node.parent
        return found[::-1]

    def evictable(self) -> list[B]:
        """The blocks that `evict` could let go of, in no order."""
        self._forest.settle()
        return self._forest.evictable()

    @property
    def oldest(self) -> float | None:
        """The rank of the block that goes first; None: there is none that no lease holds."""
        self._forest.begin()
        first = self._forest.tally.queue.first()
        self._forest.finish()
        return None if first is None else first.rank

    def evict(self, count: int, until: float = inf) -> int:
        """Drop so many blocks, or all that no lease holds, of a rank up to `until`; returns how
        many went. Takes O(log n) a block over time."""
        self._forest.begin()
        num_gone = 0
        while num_gone < count and self._forest.evict(until):
            num_gone += 1
        self._forest.finish()
        return num_gone

    def clear(self, salt: str | None = None) -> None:
        """Let nothing of a salt be found any more, None: of any. Blocks that are leased are let go
        when their leases end. Takes a step for each block of the tree."""
        self._forest.begin()
        roots = list(self._forest.roots.values())
        for root in roots if salt is None else [root for root in roots if root.salt == salt]:
            self._forest.clear(root)
        if salt is None:
            self._forest.evicted.clear()
        self._forest.count()
        self._forest.finish()

    def drop(self, key: str, salt: str) -> list[bytes]:
        """Let a text be found no more; see `drop_text`. Takes a step for each block of the tree."""
        self._forest.begin()
        keys = drop_text(self._forest, key, salt)
        self._forest.finish()
        return keys

    def stands(self, lease: Lease[B]) -> bool:
        """Whether what a lease holds can still be found."""
        claim = lease.hold.claim
        return claim is not None and self._forest.stands(claim[0])

    @property
    def num_salts(self) -> int:
        """How many salts have texts or leases."""
        return len(self._forest.roots)

    def roots(self) -> list[Root[B]]:
        """What all texts begin with, one for each salt; to be read alone."""
        self._forest.settle()
        return list(self._forest.roots.values())

    def entries(self) -> list[Entry]:
        """Every block that can be found, before those that follow it; slow, for people to read."""
        self._forest.settle()
        return list_entries(self._forest.roots.values(), self._forest.held(), self._block)

    def check(self) -> None:
        """Raise AssertionError where the tree is not as it should be; slow, for tests."""
        self._forest.settle()
        check_tree(self._forest.roots, self._forest.held(), self._forest.tally, self._block)

    def _miss(
        self, node: Node[B], piece: bytes, near: Node[B] | None, shared: int, num_tokens: int
    ) -> Miss:
        """Why a text is found as far as `node`, and `shared` tokens of its next piece in `near`."""
        token = node.depth * self._block + shared
        if num_tokens < self.min_tokens:
            return Miss(Reason.TOO_SHORT, token)
        if token == num_tokens:
            return Miss(Reason.WHOLE, token)
        if self._forest.evicted.has(node.key, piece):
            return Miss(Reason.EVICTED, token)
        if len(self._forest.roots) > 1 and next_key(node.plain, piece) in self._forest.tally.plain:
            return Miss(Reason.OTHER_SALT, token)
        if token == 0:
            return Miss(Reason.UNKNOWN, token)
        if near is None or shared * TOKEN_BYTES == len(near.tokens):
            return Miss(Reason.ENDED, token)
        return Miss(Reason.DIVERGED, token, *(token_ids(x)[shared] for x in (near.tokens, piece)))

    def _extend(self, node: Node[B], data: bytes, blocks: Sequence[B]) -> Node[B]:
        """The node where a text ends that goes on behind `node` with these tokens and blocks."""
        for index, block in enumerate(blocks):
            piece = data[index * self._full : (index + 1) * self._full]
            child = node.children.get(piece)
            if child is not None and self._again is not None:
                self._again(child.block, block)
            if child is None and len(piece) < self._full and node.children:
                child = node.continuing(piece)
            node = self._forest.add(node, piece, block) if child is None else child
        return node

    def _check_call(self, num_tokens: int, num_blocks: int, retain: float) -> None:
        needed = -(-num_tokens // self._block)
        if num_blocks != needed:
            raise OptionError(
                f"{num_tokens} tokens, {self._block} a block, lie in {needed} blocks, not "
                f"{num_blocks}; give each block that holds some of them, and no other"
            )
        if not (isfinite(retain) and 0 <= retain <= self.longest_retain):
            raise OptionError(
                f"retain={retain} is out of 0 to {self.longest_retain} seconds; give one of these"
            )

    def _check_lease(self, lease: Lease[B], salt: str, tokens: Tokens) -> None:
        if not self._forest.is_held(lease):
            raise OptionError("the lease was released, or is of another tree; leave it out")
        start = last_filled(lease, self._block)
        last = tokens[max(0, start.depth - 1) * self._block : start.depth * self._block]
        if lease.salt != salt or token_bytes(last) != start.tokens:
            raise OptionError(
                f"the lease is of a text of another salt, or other tokens before token "
                f"{start.depth * self._block}; release it, and insert without a lease"
            )
