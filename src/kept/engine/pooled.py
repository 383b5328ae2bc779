"""Sequences whose keys lie in a pool of blocks, shared by those whose texts begin alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from kept.blocks import BLOCK, KnownText, Lease, Match, Stack, blocks_of
from kept.cache import Cache
from kept.engine.continuation import Continuation
from kept.engine.counters import Counters, PoolBlocks
from kept.engine.finding import findable, note_found
from kept.engine.holds import Hold, longest_shared
from kept.engine.known import Known
from kept.engine.looking import Look, look, texts_of
from kept.engine.needs import Needs, longest_text
from kept.engine.passes import Work
from kept.engine.request import Request
from kept.engine.residents import Residents
from kept.engine.room import Helper, Lender, Room
from kept.engine.scheduler import Scheduler
from kept.engine.stored import Stored
from kept.engine.supply import Supply
from kept.engine.view import Owner
from kept.engine.window import ContextRule
from kept.errors import CacheFullError
from kept.format import format_bytes


class PooledResidents(Residents):
    """Residents of a cache in blocks.

    What a sequence has computed goes into the prefix tree, so that whoever begins like it need not
    read it too: of a prompt as it is read, of what follows block by block where a request has one
    text, and of every text when it ends or makes room for others. Blocks of the tree that no
    running sequence needs are free for whoever does.

    known: None where texts share nothing, as keys depend on more than the tokens before them; a
    request then starts once there is room for all that it may come to, which is set aside for it,
    and is never parked. room, owner: see `Supply`.
    """

    def __init__(
        self,
        cache: Cache,
        num_slots: int,
        known: Known | None,
        needs: Needs,
        rule: ContextRule,
        counters: Counters,
        room: Room,
        owner: Lender,
        stored: Stored | None = None,
    ) -> None:
        super().__init__(cache, num_slots)
        self._held_cache, self._known, self._counters = cache, known, counters
        if known is not None:
            counters.ages = known.tree.ages
        self._needs, self._rule, self._room, self._owner = needs, rule, room, owner
        self._supply = Supply(cache, known, room, owner, counters)
        self._set_aside: dict[Request, list[int]] = {}  # blocks by group, where nothing is known
        # What windows have passed is made findable first.
        cache.lets_go = known is None
        # Of what those that run have in the tree. All of a request's sequences go on from its
        # prompt, so that it is leased for as long as any of them runs.
        self._leases: dict[Request, dict[Continuation, Lease[Stack]]] = {}
        self._promised = 0, 0  # to how many of those that run, and how many bytes
        self._stored = stored
        self._waited: set[Request] = set()  # for a running request to compute their beginning

    def blocks(self) -> PoolBlocks:
        """See `Residents.blocks`."""
        each, supply = self._held_cache.block_bytes, self._supply
        findable = supply.num_findable // each
        return PoolBlocks(supply.num_free // each, findable, -(-supply.num_used // each) - findable)

    def look(self, requests: Iterable[Request]) -> Look:
        """See `Residents.look`."""
        slots = {
            continuation.slot: Owner(request.key_salt, request.tenant)
            for request in requests
            for continuation in request.group.members
            if continuation.slot is not None
        }
        return look(self._held_cache, self._known, slots)

    def texts(self) -> list[KnownText]:
        """See `Residents.texts`."""
        return [] if self._known is None else texts_of(self._held_cache, self._known)

    def drop(self, id: str, salt: str) -> bool:
        """See `Residents.drop`."""
        keys = [] if self._known is None else self._known.tree.drop(id, salt)
        if keys and self._stored is not None:
            self._stored.drop(keys)
        return bool(keys)

    def promised(self, running: Sequence[Request]) -> int:
        """See `Residents.promised`."""
        return self._needs.promised(running)

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
        return self._needs.to_start(request)

    def check(self, request: Request, beside: int = 0) -> None:
        """See `Residents.check`."""
        each, needed = self._held_cache.block_bytes, self._needs.most(request)
        if needed > self._supply.most:
            longest = longest_text(request, self._rule)
            raise CacheFullError(
                f"a request of {request.width} sequences of up to {longest:,} "
                f"tokens may come to need {-(-needed // each):,} blocks of {BLOCK} tokens, and the "
                f"pool of keys and values has {self._supply.most // each:,}; ask for fewer tokens "
                "or texts, or give more memory (kv_memory)"
            )
        limit = self._room.limit
        if limit is not None and needed + beside > limit:
            raise CacheFullError(
                f"a request with an input may come to need {format_bytes(needed + beside)} of keys "
                f"and values, {format_bytes(beside)} of them for what the encoder makes of it, and "
                f"all texts together have {format_bytes(limit)}; shorten it, ask for fewer tokens "
                "or texts, or give more memory (kv_memory)"
            )

    def hold(self, request: Request, running: Sequence[Request]) -> Hold | None:
        """See `Residents.hold`: one whose prompt shares a block more than the tree knows of it."""
        if self._known is None:
            return None
        if len(request.live) == 1:
            tokens, salt = findable(request.live[0]), request.key_salt
            found = longest_shared(request, tokens, running)
            if (
                found is not None
                and found.num_tokens >= self._known.num_known(tokens, salt) + BLOCK
            ):
                self._waited.add(request)
                return found
        return None if self._stored is None else self._read_stored(self._stored, request, running)

    def _read_stored(
        self, stored: Stored, request: Request, running: Sequence[Request]
    ) -> Hold | None:
        """Have what is stored of a request read, where it could start with that."""
        known, needed = self._known, self._needs.to_start(request) + self._promised_to(running)
        assert known is not None
        return stored.hold(
            request,
            lambda match: self._have_room(known, needed, [match]),
            self._supply.evict_for,
        )

    @property
    def awaited(self) -> Helper | None:
        """See `Residents.awaited`."""
        return None if self._stored is None else self._stored.awaited

    def expect(self, num_requests: int) -> None:
        """See `Residents.expect`."""
        self._promised = 0, 0
        if self._stored is not None:
            self._stored.take_in()

    def start(self, request: Request, running: Sequence[Request], beside: int = 0) -> bool:
        """See `Residents.start`."""
        promised, needed = self._promised_to(running), self._needs.to_start(request)
        refused = request.refused_with
        if refused is not None and refused == self._supply.num_obtainable() - promised:
            return False
        matches = self._fitting_matches(request, needed + promised)
        if matches is None:
            request.refused_with = self._supply.num_obtainable() - promised
            self._room.claim(self._owner, request, needed + beside)
            return False
        request.refused_with = None
        if self._known is None:
            self._set_aside[request] = self._needs.most_blocks(request)
            self._promise()
        for continuation, match in zip(request.live, matches, strict=True):
            self._settle_in(request, continuation, match)
        self._account(request, matches[0])
        return True

    def make_room(
        self, work: Sequence[Work], scheduler: Scheduler, park: Callable[[Request], None]
    ) -> None:
        """See `Residents.make_room`."""
        self._let_go_of_passed()
        while True:
            going = [item for item in work if item.continuation.slot is not None]
            needed = self._new_bytes(going)
            if self._supply.evict_for(sum(needed)):
                return
            if self._stored is not None and self._stored.make_way():
                continue
            short = [item.request for item, count in zip(going, needed, strict=True) if count]
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

    def take_ahead(self, count: int) -> bool:
        """See `Residents.take_ahead`."""
        self._let_go_of_passed()
        return self._supply.evict_for(count * self._held_cache.block_bytes)

    def has_room(self, work: Sequence[Work]) -> bool:
        """See `Residents.has_room`."""
        self._let_go_of_passed()
        return self._supply.evict_for(sum(self._new_bytes(work)))

    def computed(self, request: Request) -> None:
        """See `Residents.computed`: make what has been read of it findable."""
        leases = self._leases.setdefault(request, {})
        for continuation in request.live:
            lease = self._publish(continuation, request, leases.get(continuation), ends=False)
            if lease is not None:
                leases[continuation] = lease

    def filled(self, request: Request) -> None:
        """See `Residents.filled`: make a text findable as far as it has come. Not one of several,
        whose lease would outlive it, as the others go on from what it holds."""
        if request.width == 1:
            self.computed(request)

    def leave(self, request: Request, gone: Iterable[Continuation]) -> None:
        """See `Residents.leave`; what they have computed can be found from now on."""
        alone = self._leases.get(request, {}) if request.width == 1 else {}
        for continuation in gone:
            if continuation.slot is not None:
                lease = alone.pop(continuation, None)
                lease = self._publish(continuation, request, lease, ends=True)
                super().leave(request, [continuation])
                if lease is not None:
                    lease.release()
        if all(continuation.slot is None for continuation in request.group.members):
            self._give_up_leases(request)
            self._waited.discard(request)
            if self._stored is not None:
                self._stored.leave(request)
            if self._set_aside.pop(request, None) is not None:
                self._promise()

    def restart(self, requests: Iterable[Request]) -> None:
        """See `Residents.restart`."""
        super().restart(requests)
        self._set_aside.clear()
        self._promise()

    def forget(self) -> None:
        """See `Residents.forget`."""
        if self._stored is not None:
            self._stored.make_way()
        if self._known is not None:
            self._known.tree.clear()
        self._held_cache.release()

    def _promised_to(self, running: Sequence[Request]) -> int:
        """What those that run are promised; counted once for each of them while requests start,
        as none takes of its room then and those that have started come last."""
        num_counted, found = self._promised
        found += self._needs.promised(running[num_counted:])
        self._promised = len(running), found
        return found

    def _bytes_of(self, continuation: Continuation) -> int:
        return 0 if continuation.slot is None else self._held_cache.slot_bytes(continuation.slot)

    def _vacate(self, continuation: Continuation) -> None:
        assert continuation.slot is not None
        self._cut(continuation.slot, 0)
        super()._vacate(continuation)

    def _fitting_matches(self, request: Request, needed: int) -> list[Match[Stack] | None] | None:
        """What is found of each sequence, if with it so many bytes are to be had, else None.

        A block of which some tokens are found stays beside the copy that is written to until that
        is made; where there is no room for both, these tokens are not taken over.
        """
        known, salt = self._known, request.key_salt
        if known is None:
            return [None] * len(request.live) if needed <= self._supply.num_obtainable() else None
        found = [known.find(continuation, salt) for continuation in request.live]
        if not self._have_room(known, needed, found):
            pairs = zip(found, request.live, strict=True)
            found = [known.only_whole(match, continuation, salt) for match, continuation in pairs]
        if self._have_room(known, needed, found):
            return list(found)
        for match in found:
            match.lease.release()
        return None

    def _have_room(self, known: Known, needed: int, found: Sequence[Match[Stack]]) -> bool:
        missing = needed - sum(map(known.matched_bytes, found))
        return missing <= self._supply.num_obtainable(found)

    def _let_go_of_passed(self) -> None:
        """Leave blocks that windows have passed to the tree, where there is one."""
        if self._known is not None:
            self._held_cache.let_go()

    def _promise(self) -> None:
        """Have memory for what is set aside."""
        none = [0] * len(self._held_cache.windows)
        self._supply.promise([sum(x) for x in zip(none, *self._set_aside.values(), strict=True)])

    def _give_up_leases(self, request: Request) -> bool:
        """Let the tree drop what a request's prompt lies in, which may be blocks of others that
        computed the same; whether it had any leases. Its slots hold their blocks by themselves."""
        leases = self._leases.pop(request, {})
        for lease in leases.values():
            lease.release()
        return bool(leases)

    def _settle_in(
        self, request: Request, continuation: Continuation, match: Match[Stack] | None
    ) -> None:
        continuation.num_computed = 0
        self._seat(continuation, 0)
        if match is None:
            return
        assert continuation.slot is not None
        assert self._known is not None
        if match.num_tokens:
            self._known.gone_on(match)
            self._held_cache.adopt(continuation.slot, match.blocks, match.num_tokens)
            continuation.num_computed = match.num_tokens
        # A last block that is not taken over whole may go once it is copied.
        match = self._known.only_whole(match, continuation, request.key_salt)
        self._leases.setdefault(request, {})[continuation] = match.lease

    def _account(self, request: Request, match: Match[Stack] | None) -> None:
        """Note where the keys of its prompt came from, the first time it starts."""
        usage = request.live[0].usage
        if match is not None and usage.admitted is None:
            source = "running" if request in self._waited else "tree"
            found = (0, None) if self._stored is None else self._stored.given(request, match)
            note_found(match, source, usage, self._counters, request.live[0].tokenizer, *found)

    def _publish(
        self,
        continuation: Continuation,
        request: Request,
        lease: Lease[Stack] | None,
        *,
        ends: bool,
    ) -> Lease[Stack] | None:
        """Make what is computed of a text findable. lease: of its beginning; returned extended.
        ends: whether somebody is likely to go on from there."""
        if self._known is None or continuation.offset or not continuation.num_computed:
            return lease
        assert continuation.slot is not None
        tokens = continuation.history.tokens[: continuation.num_computed]
        stacks = self._held_cache.share(continuation.slot)[: blocks_of(len(tokens))]
        retain = request.retain if ends else 0.0
        self._known.note_owner(request.key_salt, request.tenant)
        lease = self._known.insert(
            tokens, stacks, request.key_salt, lease, ends=ends, retain=retain
        )
        if self._stored is not None and self._known.tree.stands(lease):
            self._stored.offer(lease, ends=ends)
        return lease

    def _new_bytes(self, work: Sequence[Work]) -> list[int]:
        slots = [slot for item in work if (slot := item.continuation.slot) is not None]
        return self._held_cache.num_new_bytes(slots, [item.num_new for item in work])
