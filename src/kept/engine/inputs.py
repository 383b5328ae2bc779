"""What an encoder has made of inputs, found again by their tokens.

An encoder reads an input in both directions, so nothing of another input can stand in for a part of
it: the tree has a node for each whole one, behind its length, which keeps any from being the
beginning of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kept.blocks import Lease, Namespace, PrefixTree, Reason, Reservation
from kept.cache import EncodedInput
from kept.engine.room import INFINITE, Room
from kept.ops import KVCodec

LONGEST = 1 << 40  # tokens of a node: any input lies in one


@dataclass(frozen=True, slots=True, eq=False)
class KeptInput:
    """An input that lies in a tree or is attended. reserved: its bytes."""

    encoded: EncodedInput
    reserved: Reservation


@dataclass(frozen=True, slots=True)
class FoundInput:
    """One that was found, and the claim that keeps it from going."""

    kept: KeptInput
    lease: Lease[KeptInput]


class Inputs:
    """The inputs of one model's texts, of one room: a `Lender`.

    To be used in the model's turn alone. What nobody attends goes when room is needed, least
    recently used first.
    """

    is_busy = is_running = False
    promised = 0

    def __init__(self, room: Room) -> None:
        self._trees: dict[str, PrefixTree[KeptInput]] = {}  # by codec
        room.join(self)

    def find(
        self, tokens: Sequence[int], codec: KVCodec, salt: str
    ) -> tuple[FoundInput | None, Reason]:
        """An input of these tokens, as a codec stores it, leased; None: why there is none."""
        match = self._tree(codec).match(_place(tokens), salt)
        if match.miss.reason is Reason.WHOLE:
            return FoundInput(match.blocks[-1], match.lease), Reason.WHOLE
        match.lease.release()
        told = match.miss.reason in (Reason.EVICTED, Reason.OTHER_SALT)
        return None, match.miss.reason if told else Reason.UNKNOWN

    def put(self, tokens: Sequence[int], codec: KVCodec, salt: str, kept: KeptInput) -> FoundInput:
        """Make an input findable that was not."""
        return FoundInput(kept, self._tree(codec).insert(_place(tokens), [kept], salt))

    def forget(self) -> None:
        """Let none be found any more; those that are attended stay until they are not."""
        for tree in self._trees.values():
            tree.clear()

    @property
    def num_findable(self) -> int:
        """How many there are."""
        return sum(tree.num_blocks for tree in self._trees.values())

    @property
    def returnable(self) -> int:
        """See `Lender.returnable`."""
        trees = self._trees.values()
        return sum(kept.reserved.num_bytes for tree in trees for kept in tree.evictable())

    def oldest(self, to_itself: bool) -> float | None:
        """See `Lender.oldest`."""
        found = [tree.oldest for tree in self._trees.values()]
        return min((oldest for oldest in found if oldest is not None), default=None)

    def give_back(self, num_bytes: int, until: float, to_itself: bool) -> None:
        """See `Lender.give_back`."""
        before = self.returnable
        while before - self.returnable < num_bytes:
            trees = [(tree.oldest, tree) for tree in self._trees.values()]
            ready = [(oldest, tree) for oldest, tree in trees if oldest is not None]
            oldest, first = min(ready, key=lambda pair: pair[0], default=(INFINITE, None))
            if first is None or oldest > until:
                return
            first.evict(1)

    def help(self) -> None:
        """See `Lender.help`; nobody waits for it."""

    def _tree(self, codec: KVCodec) -> PrefixTree[KeptInput]:
        if codec.name not in self._trees:
            namespace = Namespace("", "", "", codec.name, (None,), block=LONGEST)
            self._trees[codec.name] = PrefixTree(namespace)
        return self._trees[codec.name]


def _place(tokens: Sequence[int]) -> list[int]:
    return [len(tokens), *tokens]
