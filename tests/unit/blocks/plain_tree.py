"""What a prefix tree is to do, over a dict of every prefix that it knows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from kept.blocks.keys import token_bytes

Text = tuple[int, ...]
Place = tuple[str, Text]  # a salt, and all tokens up to the end of a block


def common(a: Sequence[int], b: Sequence[int]) -> int:
    pairs = zip(a, b, strict=False)
    return next((n for n, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))


@dataclass
class PlainLease:
    """text: what of it lies in the blocks it holds. last: the last of them, if there are some."""

    salt: str
    text: Text
    last: Place | None = None
    cleared: bool = False


@dataclass
class Known:
    """used, until: of it and of all that ever followed it."""

    block: object
    used: float
    until: float = 0.0


@dataclass
class PlainTree:
    size: int
    known: dict[Place, Known] = field(default_factory=dict)
    leases: list[PlainLease] = field(default_factory=list)
    evicted: set[Place] = field(default_factory=set)

    def before(self, place: Place) -> Place:
        salt, text = place
        return salt, text[: (len(text) - 1) // self.size * self.size]

    def path(self, place: Place) -> Iterator[Place]:
        """A place and those before it, backwards."""
        while place[1]:
            yield place
            place = self.before(place)

    def siblings(self, place: Place) -> list[Place]:
        """Those that stand where a place would."""
        return [p for p in self.known if self.before(p) == self.before(place) and p != place]

    def use(self, place: Place | None, now: float, until: float = 0.0) -> None:
        for at in self.path(place) if place is not None else ():
            self.known[at].used = max(self.known[at].used, now)
            self.known[at].until = max(self.known[at].until, until)

    def held(self) -> set[Place]:
        """All that a lease protects."""
        lasts = [x.last for x in self.leases if x.last is not None and not x.cleared]
        return {at for last in lasts for at in self.path(last)}

    def num_leases(self, place: Place) -> int:
        lasts = [x.last for x in self.leases if x.last is not None and not x.cleared]
        return sum(place in self.path(last) for last in lasts)

    def longest(self, text: Text, salt: str) -> int:
        return max((common(text, known) for of, known in self.known if of == salt), default=0)

    def insert(
        self, lease: PlainLease, text: Text, blocks: Sequence[object], now: float, until: float
    ) -> None:
        if lease.cleared:
            return
        last = None
        for start in range(0, len(text), self.size):
            last = (lease.salt, text[: start + self.size])
            if last not in self.known:
                fuller = [p for p in self.siblings(last) if p[1][: len(last[1])] == last[1]]
                if fuller:
                    last = min(fuller, key=lambda place: token_bytes(place[1]))
                else:
                    self.add(last, blocks[start // self.size], now)
        old, lease.last, lease.text = lease.last, last, text
        self.use(last, now, until)
        self.drop_superseded(old)

    def add(self, place: Place, block: object, now: float) -> None:
        self.known[place] = Known(block, now)
        self.evicted.discard(place)
        for other in sorted(self.siblings(place), key=lambda p: -len(p[1])):
            if other[1] == place[1][: len(other[1])]:
                self.drop_superseded(other)

    def drop_superseded(self, place: Place | None) -> None:
        """Drop a block that nobody holds and another one goes on from."""
        if place is None or place not in self.known or place in self.held():
            return
        fuller = [p for p in self.siblings(place) if p[1][: len(place[1])] == place[1]]
        if fuller:
            first = min(fuller, key=lambda place: token_bytes(place[1]))
            self.use(first, self.known[place].used, self.known[place].until)
            del self.known[place]

    def release(self, lease: PlainLease, now: float) -> None:
        self.leases = [x for x in self.leases if x is not lease]
        if not lease.cleared:
            self.use(lease.last, now)
            self.drop_superseded(lease.last)

    def evict(self, count: int) -> int:
        num_gone = 0
        while num_gone < count and (idle := self.idle()):
            ranks = {p: max(self.known[p].used, self.known[p].until) for p in idle}
            first = min(idle, key=lambda place: ranks[place])
            assert list(ranks.values()).count(ranks[first]) == 1, "the law leaves it open"
            del self.known[first]
            self.evicted.add(first)
            num_gone += 1
        return num_gone

    def idle(self) -> list[Place]:
        followed, held = {self.before(place) for place in self.known}, self.held()
        return [place for place in self.known if place not in followed and place not in held]

    def clear(self, salt: str | None) -> None:
        self.known = {p: x for p, x in self.known.items() if salt not in (None, p[0])}
        for lease in self.leases:
            lease.cleared |= salt in (None, lease.salt)
        if salt is None:
            self.evicted.clear()
