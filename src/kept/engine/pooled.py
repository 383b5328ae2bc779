"""Sequences whose keys lie in a pool of blocks, shared by those whose texts begin alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from kept.blocks import BLOCK, Block, BlockPool, Lease, Match, PrefixTree, Reason
from kept.cache import Cache
from kept.engine.continuation import Continuation
from kept.engine.counters import Counters
from kept.engine.holds import Hold
from kept.engine.passes import Work
from kept.engine.request import Request
from kept.engine.residents import Residents
from kept.engine.scheduler import Scheduler
from kept.errors import CacheFullError


def blocks_of(num_tokens: int) -> int:
    """How many blocks so many tokens lie in."""
    return -(-num_tokens // BLOCK)


class PooledResidents(Residents):
    """Residents of a cache in blocks.

    What a sequence has computed goes into the prefix tree: of a prompt as it is read, so that
    whoever begins like it need not read it too, and of every text when it ends or makes room for
    others. Blocks of the tree that no running sequence needs are free for whoever does.

    tree: None where texts share nothing, as keys depend on more than the tokens before them; a
    request then starts once there is room for all that it may come to, and is never parked.
    """

    def __init__(
        self,
        cache: Cache,
        num_slots: int,
        pool: BlockPool,
        tree: PrefixTree[Block] | None,
        counters: Counters,
    ) -> None:
        super().__init__(cache, num_slots)
        self._pool, self._tree, self._counters = pool, tree, counters
        self._held_cache = cache
        self._leases: dict[Continuation, Lease[Block]] = {}
        self._waited: set[Request] = set()  # for a running request to compute their beginning

    @property
    def num_findable(self) -> int:
        """Blocks that the tree holds and no running sequence has to."""
        return 0 if self._tree is None else self._tree.num_evictable

    def check(self, request: Request) -> None:
        """See `Residents.check`."""
        needed = _most(request)
        if needed > self._pool.num_blocks:
            raise CacheFullError(
                f"a request of {request.width} sequences of up to {_longest(request):,} tokens may "
                f"come to need {needed:,} blocks of {BLOCK} tokens, and the pool of keys and "
                f"values has {self._pool.num_blocks:,}; ask for fewer tokens or texts, or give "
                "more memory (kv_memory)"
            )

    def hold(self, request: Request, running: Sequence[Request]) -> Hold | None:
        """See `Residents.hold`: one whose prompt shares a block more than the tree knows of it."""
        if self._tree is None or len(request.live) != 1:
            return None
        tokens = _findable(request.live[0])
        best, most = None, BLOCK - 1
        for leader in running:
            if leader.has_caught_up or leader.salt != request.salt or len(leader.live) != 1:
                continue
            shared = _num_shared(leader.live[0].history.tokens, tokens)
            if shared > most and shared > leader.live[0].num_computed:
                best, most = leader, shared
        if best is None:
            return None
        with self._tree.match(tokens, request.salt) as match:
            if most < match.num_tokens + BLOCK:
                return None
        self._waited.add(request)
        return Hold(best, most)

    def start(self, request: Request, running: Sequence[Request]) -> bool:
        """See `Residents.start`."""
        available = self._pool.num_free + self.num_findable
        if request.refused_with == available:
            return False
        matches = [self._match(continuation, request) for continuation in request.live]
        num_found = sum(0 if m is None else m.num_tokens // BLOCK for m in matches)
        needed = self._needed(request) - num_found
        for other in running:
            held = sum(blocks_of(c.num_computed) for c in other.live)
            needed += max(0, self._needed(other) - held)
        if needed > self._pool.num_free + self.num_findable:
            for match in matches:
                if match is not None:
                    match.lease.release()
            request.refused_with = available
            return False
        request.refused_with = None
        for continuation, match in zip(request.live, matches, strict=True):
            self._settle_in(continuation, match)
        self._account(request, matches)
        return True

    def make_room(
        self, work: Sequence[Work], scheduler: Scheduler, park: Callable[[Request], None]
    ) -> None:
        """See `Residents.make_room`."""
        while True:
            going = [item for item in work if item.continuation.slot is not None]
            if self._evict_for(sum(map(self._new_blocks, going))):
                return
            short = [item.request for item in going if self._new_blocks(item)]
            wanting = min(short, key=lambda request: request.rank)
            victim = scheduler.victim(wanting)
            if victim is None and len(scheduler.running) == 1:
                return  # nobody is left to make room: the pass says what is missing
            park(victim or wanting)

    def take_ahead(self, count: int) -> None:
        """See `Residents.take_ahead`."""
        self._evict_for(count)

    def computed(self, request: Request) -> None:
        """See `Residents.computed`: make what has been read of it findable."""
        for continuation in request.live:
            self._publish(continuation, request.salt)

    def leave(self, request: Request, gone: Iterable[Continuation]) -> None:
        """See `Residents.leave`; what they have computed can be found from now on."""
        for continuation in gone:
            if continuation.slot is not None:
                self._publish(continuation, request.salt)
            lease = self._leases.pop(continuation, None)
            if lease is not None:
                lease.release()
            super().leave(request, [continuation])
        self._waited.discard(request)

    def forget(self) -> None:
        """Let no text be found again, and give free memory back to the system."""
        if self._tree is not None:
            self._tree.clear()
        self._held_cache.release()

    def _vacate(self, continuation: Continuation) -> None:
        assert continuation.slot is not None
        self._cut(continuation.slot, 0)
        super()._vacate(continuation)

    def _match(self, continuation: Continuation, request: Request) -> Match[Block] | None:
        if self._tree is None:
            return None
        return self._tree.match(_findable(continuation), request.salt)

    def _settle_in(self, continuation: Continuation, match: Match[Block] | None) -> None:
        continuation.num_computed = 0
        self._seat(continuation, 0)
        if match is None:
            return
        assert continuation.slot is not None
        self._leases[continuation] = match.lease
        if match.num_tokens:
            self._held_cache.adopt(continuation.slot, match.blocks, match.num_tokens)
            continuation.num_computed = match.num_tokens

    def _account(self, request: Request, matches: Sequence[Match[Block] | None]) -> None:
        """Note where the keys of its prompt came from, the first time it starts."""
        usage, match = request.live[0].usage, matches[0]
        if match is None or usage.admitted is not None:
            return
        if match.num_tokens:
            source = "running" if request in self._waited else "tree"
            usage.cached[source] = match.num_tokens
            self._counters.cached_tokens[source] += match.num_tokens
        if match.miss.reason is not Reason.WHOLE:
            usage.miss = str(match.miss)
            self._counters.misses[match.miss.reason.value] += 1

    def _publish(self, continuation: Continuation, salt: str) -> None:
        """Make what is computed of a text findable."""
        if self._tree is None or continuation.offset or not continuation.num_computed:
            return
        assert continuation.slot is not None
        tokens = continuation.history.tokens[: continuation.num_computed]
        blocks = self._held_cache.share(continuation.slot)[: blocks_of(len(tokens))]
        lease = self._leases.get(continuation)
        self._leases[continuation] = self._tree.insert(tokens, blocks, salt, lease)

    def _needed(self, request: Request) -> int:
        """Blocks that it needs until it has drawn a token of each text; where it cannot be parked,
        until its end."""
        if self._tree is None:
            return _most(request)
        return (
            sum(blocks_of(len(c.history) - c.offset + 1) for c in request.live)
            + request.width
            - len(request.live)
        )

    def _new_blocks(self, item: Work) -> int:
        slot = item.continuation.slot
        return 0 if slot is None else self._held_cache.num_new_blocks(slot, item.num_new)

    def _evict_for(self, count: int) -> bool:
        """Have so many blocks free, at the cost of texts that have ended; whether there are."""
        while (missing := count - self._pool.num_free) > 0:
            num_gone = 0 if self._tree is None else self._tree.evict(missing)
            self._counters.evicted_blocks += num_gone
            if not num_gone:
                return False
        return True


def _findable(continuation: Continuation) -> np.ndarray:
    """What may be taken over of a text: all but its last token, whose logits are needed."""
    return continuation.history.tokens[:-1]


def _num_shared(a: np.ndarray, b: np.ndarray) -> int:
    length = min(len(a), len(b))
    differ = np.flatnonzero(a[:length] != b[:length])
    return int(differ[0]) if len(differ) else length


def _longest(request: Request) -> int:
    return max(c.limit - c.offset - 1 for c in request.group.results)


def _most(request: Request) -> int:
    """Blocks that it may come to need, with one that each of several takes ahead."""
    return request.width * (blocks_of(_longest(request)) + (request.width > 1))
