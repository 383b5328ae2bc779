"""A block of a text in a tree of texts: its tokens, its place, and what follows it.

Children whose first tokens are the same stand next to each other when they are sorted by their
bytes. So of all children, one of the two between which a piece belongs shares most of its tokens.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import Generic, TypeVar

from kept.blocks.keys import TOKEN_BYTES, num_common

B = TypeVar("B")


class Node(Generic[B]):
    """A block: `tokens` (bytes of at most a block's tokens) after those of its parent.

    key: over all tokens up to its end. plain: the same without a salt. depth: blocks up to its end.
    block: what holds its keys and values. holds: leases of it, and children that are held.
    born, last_use, until: seconds of the tree's clock; when its first token came, when it was last
    used, and until when it counts as used. reused: when a text last went on from it, None: never.
    queued: an eviction queue has an entry of it.
    """

    __slots__ = (
        "block", "born", "children", "depth", "holds", "key", "last_use", "parent", "plain",
        "queued", "reused", "sorted", "tokens", "until",
    )  # fmt: skip
    block: B

    depth: int

    def __init__(self, parent: Node[B] | None, tokens: bytes, key: bytes, plain: bytes) -> None:
        self.parent = parent
        self.tokens = tokens
        self.key = key
        self.plain = plain
        self.depth = 0 if parent is None else parent.depth + 1
        self.children: dict[bytes, Node[B]] = {}
        # The children's tokens in order, from when they are first asked for. It is set aside while
        # children come and go, so that an exception on the way has it made anew.
        self.sorted: list[bytes] | None = None
        self.holds = 0
        self.born = self.last_use = 0.0
        self.until = 0.0
        self.reused: float | None = None
        self.queued = False

    @property
    def rank(self) -> float:
        """Of two nodes the lower one is evicted first."""
        return max(self.last_use, self.until)

    @property
    def is_idle(self) -> bool:
        """Whether it may be evicted: nobody holds it and nothing follows it."""
        return not self.holds and not self.children and self.parent is not None

    @property
    def is_linked(self) -> bool:
        """Whether its parent has it as a child."""
        return self.parent is not None and self.parent.children.get(self.tokens) is self

    def add(self, child: Node[B]) -> None:
        """Take a child in."""
        order, self.sorted = self.sorted, None
        self.children[child.tokens] = child
        if order is not None:
            insort(order, child.tokens)
            self.sorted = order

    def remove(self, child: Node[B]) -> None:
        """Let a child go; its own use counts as its parent's."""
        self.last_use = max(self.last_use, child.last_use)
        self.until = max(self.until, child.until)
        order, self.sorted = self.sorted, None
        del self.children[child.tokens]
        if order is not None:
            del order[bisect_left(order, child.tokens)]
            self.sorted = order

    def nearest(self, piece: bytes) -> tuple[Node[B] | None, int]:
        """The child that shares most first tokens with a piece, and how many; the child is None
        where there are no children."""
        best, most = None, -1
        for tokens in self._neighbours(piece):
            count = num_common(tokens, piece)
            if count > most:
                best, most = self.children[tokens], count
        return best, max(most, 0)

    def continuing(self, piece: bytes) -> Node[B] | None:
        """A child that holds a piece and more behind it."""
        order = self._order()
        at = bisect_right(order, piece)
        return self.children[order[at]] if at < len(order) and order[at].startswith(piece) else None

    def beginning(self, piece: bytes) -> Iterator[Node[B]]:
        """The children that hold some first tokens of a piece and no others, the fullest first."""
        for size in range(len(piece) - TOKEN_BYTES, 0, -TOKEN_BYTES):
            found = self.children.get(piece[:size])
            if found is not None:
                yield found

    def _neighbours(self, piece: bytes) -> list[bytes]:
        order = self._order()
        at = bisect_left(order, piece)
        return order[max(0, at - 1) : at + 1]

    def _order(self) -> list[bytes]:
        if self.sorted is None:
            self.sorted = sorted(self.children)
        return self.sorted


class Root(Node[B]):
    """What the texts of one salt begin with: no tokens."""

    __slots__ = ("salt",)

    def __init__(self, salt: str, key: bytes, plain: bytes) -> None:
        super().__init__(None, b"", key, plain)
        self.salt = salt
