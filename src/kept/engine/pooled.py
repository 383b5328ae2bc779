"""Sequences whose keys lie in a pool of blocks, shared by those whose texts begin alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from kept.blocks import (
    BLOCK,
    Block,
    Lease,
    Match,
    Miss,
    PrefixTree,
    Reason,
)
from kept.cache import Cache
from kept.engine.continuation import Continuation
from kept.engine.counters import Counters, PoolBlocks
from kept.engine.finding import find, findable, num_shared, only_whole
from kept.engine.holds import Hold
from kept.engine.needs import Needs, blocks_of, longest_text
from kept.engine.passes import Work
from kept.engine.request import Request
from kept.engine.residents import Residents
from kept.engine.room import Lender, Room
from kept.engine.scheduler import Scheduler
from kept.engine.supply import Supply
from kept.engine.window import ContextRule
from kept.errors import CacheFullError
from kept.format import format_bytes
from kept.text import Tokenizer


class PooledResidents(Residents):
    """Residents of a cache in blocks.

    What a sequence has computed goes into the prefix tree: of a prompt as it is read, so that
    whoever begins like it need not read it too, and of every text when it ends or makes room for
    others. Blocks of the tree that no running sequence needs are free for whoever does.

    tree: None where texts share nothing, as keys depend on more than the tokens before them; a
    request then starts once there is room for all that it may come to, which is set aside for it,
    and is never parked. room, owner: see `Supply`.
    """

    def __init__(
        self,
        cache: Cache,
        num_slots: int,
        tree: PrefixTree[Block] | None,
        rule: ContextRule,
        counters: Counters,
        room: Room,
        owner: Lender,
    ) -> None:
        super().__init__(cache, num_slots)
        assert cache.pool is not None
        self._pool, self._tree, self._counters = cache.pool, tree, counters
        self._held_cache, self._rule, self._room, self._owner = cache, rule, room, owner
        self._supply = Supply(cache, cache.pool, tree, room, owner, counters)
        self._needs = Needs(rule, parkable=tree is not None)
        self._set_aside: dict[Request, int] = {}  # blocks, where there is no tree
        # Of the prompts of those that run, which all of a request's sequences go on from.
        self._leases: dict[Request, dict[Continuation, Lease[Block]]] = {}
        self._waited: set[Request] = set()  # for a running request to compute their beginning

    def blocks(self) -> PoolBlocks:
        """See `Residents.blocks`."""
        free, findable = self._pool.num_free, self._supply.num_findable
        return PoolBlocks(free, findable, self._pool.num_used - findable)

    def promised(self, running: Sequence[Request]) -> int:
        """See `Residents.promised`."""
        return self._needs.promised(running) * self._held_cache.block_bytes

    @property
    def returnable(self) -> int:
        """See `Lender.returnable`."""
        return self._supply.returnable

    def oldest(self, to_itself: bool) -> float | None:
        """See `Lender.oldest`."""
        return self._supply.oldest(to_itself)

    def give_back(self, num_bytes: int, until: float, to_itself: bool) -> None:
        """See `Lender.give_back`."""
        self._supply.give_back(num_bytes, until, to_itself)

    def needed_bytes(self, request: Request) -> int:
        """See `Residents.needed_bytes`."""
        return self._needs.to_start(request) * self._held_cache.block_bytes

    def check(self, request: Request, beside: int = 0) -> None:
        """See `Residents.check`."""
        needed = self._needs.most(request)
        if needed > self._pool.num_blocks:
            longest = longest_text(request, self._rule)
            raise CacheFullError(
                f"a request of {request.width} sequences of up to {longest:,} "
                f"tokens may come to need {needed:,} blocks of {BLOCK} tokens, and the pool of "
                f"keys and values has {self._pool.num_blocks:,}; ask for fewer tokens or texts, "
                "or give more memory (kv_memory)"
            )
        in_all, limit = needed * self._held_cache.block_bytes + beside, self._room.limit
        if limit is not None and in_all > limit:
            raise CacheFullError(
                f"a request with an input may come to need {format_bytes(in_all)} of keys and "
                f"values, {format_bytes(beside)} of them for what the encoder makes of it, and all "
                f"texts together have {format_bytes(limit)}; shorten it, ask for fewer tokens or "
                "texts, or give more memory (kv_memory)"
            )

    def hold(self, request: Request, running: Sequence[Request]) -> Hold | None:
        """See `Residents.hold`: one whose prompt shares a block more than the tree knows of it."""
        if self._tree is None or len(request.live) != 1:
            return None
        tokens = findable(request.live[0])
        best, most = None, BLOCK - 1
        for leader in running:
            if leader.has_caught_up or leader.salt != request.salt or len(leader.live) != 1:
                continue
            shared = num_shared(leader.live[0].history.tokens, tokens)
            if shared > most and shared > leader.live[0].num_computed:
                best, most = leader, shared
        if best is None:
            return None
        with self._tree.match(tokens, request.salt) as match:
            if most < match.num_tokens + BLOCK:
                return None
        self._waited.add(request)
        return Hold(best, most)

    def start(self, request: Request, running: Sequence[Request], beside: int = 0) -> bool:
        """See `Residents.start`."""
        promised, needed = self._needs.promised(running), self._needs.to_start(request)
        room = self._supply.num_obtainable - promised
        if request.refused_with == room:
            return False
        matches = self._fitting_matches(request, needed + promised)
        if matches is None:
            request.refused_with = room
            self._room.claim(self._owner, self.needed_bytes(request) + beside)
            return False
        request.refused_with = None
        self._room.withdraw(self._owner)
        if self._tree is None:
            self._set_aside[request] = needed
            self._supply.promise(sum(self._set_aside.values()))
        for continuation, match in zip(request.live, matches, strict=True):
            self._settle_in(request, continuation, match)
        self._account(request, matches)
        return True

    def make_room(
        self, work: Sequence[Work], scheduler: Scheduler, park: Callable[[Request], None]
    ) -> None:
        """See `Residents.make_room`."""
        while True:
            going = [item for item in work if item.continuation.slot is not None]
            if self._supply.evict_for(sum(map(self._new_blocks, going))):
                return
            short = [item.request for item in going if self._new_blocks(item)]
            wanting = min(short, key=lambda request: request.rank)
            victim = scheduler.victim(wanting)
            if victim is not None or len(scheduler.running) > 1:
                park(victim or wanting)
            elif self._give_up_leases(wanting):
                continue
            elif self._supply.others_run:
                park(wanting)
            else:
                return  # nobody is left to make room: the pass says what is missing

    def take_ahead(self, count: int) -> None:
        """See `Residents.take_ahead`."""
        self._supply.evict_for(count)

    def computed(self, request: Request) -> None:
        """See `Residents.computed`: make what has been read of it findable."""
        leases = self._leases.setdefault(request, {})
        for continuation in request.live:
            lease = self._publish(continuation, request.salt, leases.get(continuation))
            if lease is not None:
                leases[continuation] = lease

    def leave(self, request: Request, gone: Iterable[Continuation]) -> None:
        """See `Residents.leave`; what they have computed can be found from now on."""
        for continuation in gone:
            if continuation.slot is not None:
                lease = self._publish(continuation, request.salt, None)
                super().leave(request, [continuation])
                if lease is not None:
                    lease.release()
        if all(continuation.slot is None for continuation in request.group.members):
            self._give_up_leases(request)
            self._waited.discard(request)
            if self._set_aside.pop(request, None) is not None:
                self._supply.promise(sum(self._set_aside.values()))

    def restart(self, requests: Iterable[Request]) -> None:
        """See `Residents.restart`."""
        super().restart(requests)
        self._set_aside.clear()
        self._supply.promise(0)

    def forget(self) -> None:
        """See `Residents.forget`."""
        if self._tree is not None:
            self._tree.clear()
        self._held_cache.release()

    def _bytes_of(self, continuation: Continuation) -> int:
        return blocks_of(continuation.num_computed) * self._held_cache.block_bytes

    def _vacate(self, continuation: Continuation) -> None:
        assert continuation.slot is not None
        self._cut(continuation.slot, 0)
        super()._vacate(continuation)

    def _fitting_matches(self, request: Request, needed: int) -> list[Match[Block] | None] | None:
        """What is found of each sequence, if with it so many blocks are to be had, else None.

        A block of which some tokens are found stays beside the copy that is written to until that
        is made; where there is no room for both, these tokens are not taken over.
        """
        tree, salt = self._tree, request.salt
        if tree is None:
            return [None] * len(request.live) if needed <= self._supply.num_obtainable else None
        found = [find(tree, continuation, salt) for continuation in request.live]
        if not self._have_room(needed, found):
            pairs = zip(found, request.live, strict=True)
            found = [only_whole(tree, match, continuation, salt) for match, continuation in pairs]
        if self._have_room(needed, found):
            return list(found)
        for match in found:
            match.lease.release()
        return None

    def _have_room(self, needed: int, found: Iterable[Match[Block]]) -> bool:
        missing = needed - sum(match.num_tokens // BLOCK for match in found)
        return missing <= self._supply.num_obtainable

    def _give_up_leases(self, request: Request) -> bool:
        """Let the tree drop what a request's prompt lies in, which may be blocks of others that
        computed the same; whether it had any leases. Its slots hold their blocks by themselves."""
        leases = self._leases.pop(request, {})
        for lease in leases.values():
            lease.release()
        return bool(leases)

    def _settle_in(
        self, request: Request, continuation: Continuation, match: Match[Block] | None
    ) -> None:
        continuation.num_computed = 0
        self._seat(continuation, 0)
        if match is None:
            return
        assert continuation.slot is not None
        assert self._tree is not None
        if match.num_tokens:
            self._held_cache.adopt(continuation.slot, match.blocks, match.num_tokens)
            continuation.num_computed = match.num_tokens
        # A last block that is not taken over whole may go once it is copied.
        match = only_whole(self._tree, match, continuation, request.salt)
        self._leases.setdefault(request, {})[continuation] = match.lease

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
            usage.miss = _words(match.miss, request.live[0].tokenizer)
            self._counters.misses[match.miss.reason.value] += 1

    def _publish(
        self, continuation: Continuation, salt: str, lease: Lease[Block] | None
    ) -> Lease[Block] | None:
        """Make what is computed of a text findable. lease: of its beginning; returned extended."""
        if self._tree is None or continuation.offset or not continuation.num_computed:
            return lease
        assert continuation.slot is not None
        tokens = continuation.history.tokens[: continuation.num_computed]
        blocks = self._held_cache.share(continuation.slot)[: blocks_of(len(tokens))]
        return self._tree.insert(tokens, blocks, salt, lease)

    def _new_blocks(self, item: Work) -> int:
        slot = item.continuation.slot
        return 0 if slot is None else self._held_cache.num_new_blocks(slot, item.num_new)


def _words(miss: Miss, tokenizer: Tokenizer | None) -> str:
    if tokenizer is None:
        return str(miss)
    return miss.spelled(lambda token: tokenizer.decode([token], skip_special_tokens=False))
