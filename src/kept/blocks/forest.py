"""The blocks of a prefix tree and the leases of them, and how they change.

Which nodes are linked to which, each with its block, and which leases there are, is the truth. It
changes by single assignments, from one right state to another. What follows from it, `Tally`, is
kept beside: a change that an exception left before its end is seen by the next call, which counts
anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from kept.blocks.ages import Ages
from kept.blocks.evicted import Evicted
from kept.blocks.keys import TOKEN_BYTES, Namespace, next_key
from kept.blocks.lease import Hold, Lease
from kept.blocks.node import Node, Root
from kept.blocks.tally import Tally, walk

B = TypeVar("B")


class Forest(Generic[B]):
    """Nodes by their salts' roots, and who holds them. Changes lie between `begin` and `finish`.

    remembered: of how many evicted blocks the keys are kept. clock: seconds. memory: see
    `PrefixTree`. ages: of those that were evicted, and gone on from.
    """

    def __init__(
        self,
        namespace: Namespace,
        remembered: int,
        clock: Callable[[], float],
        memory: Callable[[B], Hashable] | None,
    ) -> None:
        self.roots: dict[str, Root[B]] = {}
        self.tally: Tally[B] = Tally(memory)
        self.evicted = Evicted(remembered)
        self._namespace = namespace
        self._full = namespace.block * TOKEN_BYTES  # bytes of a whole block's tokens
        self._plain = namespace.root()
        self._holds: dict[int, Hold] = {}  # of leases that are not released, by id()
        self._dropped: deque[Hold] = deque()
        self._clock = clock
        self._time = 0.0
        self._is_changing = False
        self.ages = Ages()

    def begin(self) -> None:
        """Before a change."""
        self.settle()
        self._is_changing = True

    def finish(self) -> None:
        """After a change that came to its end."""
        self._is_changing = False

    def settle(self) -> None:
        """Put right what a change left halfway, and end the leases that were dropped."""
        if self._is_changing:
            self.count()
            self._is_changing = False
        while self._dropped:
            self._is_changing = True
            self._give_back(self._dropped.popleft())
            self._is_changing = False

    def count(self) -> None:
        """Make anew what follows from nodes and leases."""
        for hold in [hold for hold in self._holds.values() if hold() is None]:
            del self._holds[id(hold)]
        self.tally = Tally.count(self.roots.values(), self.held(), self.tally.memory)
        for root in list(self.roots.values()):
            for node in walk([root]):
                self._drop_if_superseded(node)
            self._drop_if_bare(root)

    def now(self) -> float:
        """The clock's seconds, or what they were if they have run backwards."""
        self._time = max(self._time, self._clock())
        return self._time

    def root(self, salt: str) -> Root[B]:
        """What texts of a salt begin with; it goes when nothing follows and nobody holds it."""
        root = self.roots.get(salt)
        if root is None:
            root = Root(salt, self._namespace.root(salt), self._plain)
            self.roots[salt] = root
        return root

    def stands(self, node: Node[B]) -> bool:
        """Whether a node that somebody holds is still in the forest, and was not cleared."""
        if isinstance(node, Root):
            return self.roots.get(node.salt) is node
        return node.is_linked

    def held(self) -> list[Node[B]]:
        """The nodes that leases hold, one for each lease."""
        claims = [hold.claim for hold in self._holds.values()]
        return [claim[0] for claim in claims if claim is not None and self.stands(claim[0])]

    def lease(self, node: Node[B], salt: str, num_tokens: int = 0) -> Lease[B]:
        """A new lease of a node, which counts as used, by a text that has so many tokens there."""
        lease: Lease[B] = Lease(salt, self._release)
        lease.hold = hold = Hold(lease, self._dropped.append)
        hold.claim = node, num_tokens
        self._holds[id(hold)] = hold
        self.tally.hold(node)
        node.last_use = self.now()
        return lease

    def is_held(self, lease: Lease[B]) -> bool:
        """Whether a lease is one of these, and was not released."""
        return id(lease.hold) in self._holds

    def move(self, lease: Lease[B], node: Node[B], num_tokens: int) -> None:
        """Have a lease hold another node, where its text has so many tokens."""
        before, lease.hold.claim = lease.hold.claim, (node, num_tokens)
        self.tally.hold(node)
        if before is not None:
            self._let_go(before[0])

    def add(self, parent: Node[B], piece: bytes, block: B) -> Node[B]:
        """A new node behind another one; those of fewer of its tokens go, unless they are held."""
        key = next_key(parent.key, piece)
        plain = key if parent.plain == parent.key else next_key(parent.plain, piece)
        node = Node(parent, piece, key, plain)
        node.block, node.born = block, self.now()
        fewer = list(parent.beginning(piece)) if parent.children else []
        parent.add(node)
        self.tally.note(node)
        self.evicted.discard(key)
        for other in fewer:
            self._drop_if_superseded(other)
        return node

    def reuse(self, node: Node[B]) -> None:
        """A text goes on from a node and all before it."""
        now, before, count = self.now(), None, 0
        while node.parent is not None:
            # Blocks of one text were mostly last gone on from together, and are counted so.
            if node.reused != before:
                if before is not None:
                    self.ages.gaps.add(now - before, count)
                before, count = node.reused, 0
            node.reused = now
            count += 1
            node = node.parent
        if before is not None:
            self.ages.gaps.add(now - before, count)

    def evict(self, until: float) -> bool:
        """Drop the block that goes first; False: there is none that nobody holds, or none of so low
        a rank."""
        first = self.tally.queue.first()
        if first is None or first.rank > until:
            return False
        node = self.tally.queue.pop()
        assert node is first
        assert node.parent is not None
        now = self.now()
        self.ages.lifetimes.add(now - node.born)
        self.ages.idle.add(now - node.last_use)
        self.evicted.add(node.parent.key, node.key, node.tokens, self._namespace.block)
        self._remove(node)
        return True

    def evictable(self) -> list[B]:
        """The blocks whose memory no lease holds, each once, in no order."""
        memory, held = self.tally.memory, self.tally.held
        nodes = walk(self.roots.values())
        found = {memory(node.block): node.block for node in nodes if not node.holds}
        return [block for of, block in found.items() if of not in held]

    def clear(self, root: Root[B]) -> None:
        """Take everything of a salt out, held or not; `count` is to follow."""
        # What follows goes first: at any moment a linked node is in the forest.
        for node in reversed(list(walk([root]))):
            assert node.parent is not None
            node.parent.remove(node)
        del self.roots[root.salt]

    def _remove(self, node: Node[B]) -> None:
        parent = node.parent
        assert parent is not None
        parent.remove(node)
        self.tally.forget(node)
        del node.block  # a queue may know the node for longer
        if isinstance(parent, Root):
            self._drop_if_bare(parent)

    def _drop_if_superseded(self, node: Node[B]) -> None:
        """Drop a block that is not full if a fuller one holds its tokens, and give that its use."""
        if node.holds or node.parent is None or len(node.tokens) == self._full:
            return
        fuller = node.parent.continuing(node.tokens)
        if fuller is not None:
            fuller.born = min(fuller.born, node.born)
            fuller.last_use = max(fuller.last_use, node.last_use)
            fuller.until = max(fuller.until, node.until)
            if node.reused is not None:
                fuller.reused = max(fuller.reused or node.reused, node.reused)
            self._remove(node)

    def _drop_if_bare(self, root: Root[B]) -> None:
        if not root.children and not root.holds:
            del self.roots[root.salt]

    def _release(self, hold: Hold) -> None:
        if id(hold) in self._holds:
            self.begin()
            self._give_back(hold)
            self.finish()

    def _give_back(self, hold: Hold) -> None:
        if self._holds.pop(id(hold), None) is None:
            return  # of a lease that an exception came upon while it was made
        claim, hold.claim = hold.claim, None
        if claim is not None:
            claim[0].last_use = self.now()
            self._let_go(claim[0])

    def _let_go(self, node: Node[B]) -> None:
        if not self.stands(node):
            return
        self.tally.let_go(node)
        if isinstance(node, Root):
            self._drop_if_bare(node)
        else:
            self._drop_if_superseded(node)
