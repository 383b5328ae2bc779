"""What a store has of texts that wait, read into blocks of the pool; and what it is given.

    a request waits ── find, by names ── no more than the tree has ── it starts
                         └── Reading: blocks of the pool ── threads of the store fill them
                               └── over, or too late ── what is whole goes into the tree ── starts

Others run meanwhile. Reading is only begun where the request could start with it, and where it is
faster than computing, and waited for no longer than that would take.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from kept.blocks import BLOCK, Block, Lease, Match, Stack, blocks_of
from kept.blocks.keys import TOKEN_BYTES, chain, token_bytes, token_ids
from kept.cache import BlockBytes, Cache, first_needed
from kept.engine.continuation import Continuation
from kept.engine.finding import Tokens, findable, num_shared
from kept.engine.holds import Hold
from kept.engine.known import Known
from kept.engine.landing import Asked, Landing, ReadHold, Reading, Starting
from kept.engine.request import Request
from kept.engine.step_time import StepTime, attended_by
from kept.errors import CacheFullError
from kept.store import READ_PATIENCE, Found, PrefixStore, Read, Section, Wanted
from kept.store.section import LEAST_TAIL

LEAST_GAIN: Final = 32  # tokens for which a file is read
MOST_TRIES: Final = 3  # reads for a sequence each time it starts
LEAST_PATIENCE: Final = 0.25  # seconds
STARTING: Final = 1.0  # seconds that a request waits for the store's names to be read
_LOOK: Final = 0.05  # seconds after which whoever waits looks around


class Stored:
    """A section of the store for the residents of one pool. Changed in the model's turn alone."""

    def __init__(
        self,
        cache: Cache,
        known: Known,
        section: Section,
        store: PrefixStore,
        step_time: StepTime,
    ) -> None:
        self._cache, self._known, self._section, self._store = cache, known, section, store
        self._copy, self._step_time = BlockBytes(cache), step_time
        self._asked: dict[Request, Asked] = {}
        self._reading: dict[Request, Reading] = {}
        self._starting: Starting | None = None

    @property
    def awaited(self) -> Stored | None:
        """Itself, where requests wait for something to be read."""
        return self if self._waited_for() is not None else None

    def help(self) -> None:
        """See `Helper.help`: wait for a while for what is being read."""
        waited_for = self._waited_for()
        if waited_for is not None:
            waited_for.wait(_LOOK)

    def hold(
        self,
        request: Request,
        has_room: Callable[[Match[Stack]], bool],
        evict_for: Callable[[int], bool],
    ) -> Hold | None:
        """Have more of a request read than is known, and hold it until that is there; None: there
        is nothing more, or no room yet.

        has_room: whether it could start, with what is matched of one of its sequences. evict_for:
        has so many bytes of blocks free.
        """
        begun = self._reading.get(request)
        if begun is not None:
            return ReadHold(request, begun.found.num_tokens, begun.read)
        asked = self._asked.setdefault(request, Asked(time.monotonic()))
        if not self._section.is_ready.is_set():
            self._starting = Starting(self._section, asked.since + STARTING)
            if not self._starting.is_over:
                return ReadHold(request, len(request.live[0].history), self._starting)
        self._starting = None
        for continuation in request.live:
            reading = self._begin(request, continuation, asked, has_room, evict_for)
            if reading is not None:
                return ReadHold(request, reading.found.num_tokens, reading.read)
        return None

    def take_in(self) -> None:
        """Let what has been read be found, by whoever waited for it before others make it go."""
        for request in [x for x, reading in self._reading.items() if reading.read.is_over]:
            # First taken out: what an exception then leaves is blocks that nobody has.
            self._land(request, self._reading.pop(request))

    def given(self, request: Request, match: Match[Stack]) -> tuple[int, str | None]:
        """How many tokens of what a request starts with came out of files, and what went wrong
        with others; forgets what is known of it."""
        asked = self._asked.get(request)
        self.leave(request)
        if asked is None:
            return 0, None
        begin, end = asked.came
        return max(0, min(end, match.num_tokens) - begin), asked.fault

    def leave(self, request: Request) -> None:
        """A request waits no more, or anew. Who waits for what was read for it asks again."""
        self._asked.pop(request, None)
        self._let_go(request)

    def _let_go(self, request: Request) -> None:
        reading = self._reading.pop(request, None)
        if reading is not None:
            reading.read.end()
            reading.lease.release()

    def make_way(self) -> bool:
        """Let go of what is being read; whether there was any. Whoever waits for it asks again."""
        found = list(self._reading)
        for request in found:
            self._let_go(request)
        return bool(found)

    def offer(self, lease: Lease[Stack], *, ends: bool) -> None:
        """Have the blocks written that a lease holds, those that are not yet. ends: nothing is
        likely to come behind them soon."""
        path = self._known.tree.path(lease)
        keys = [node.key for node in path]
        for index in self._section.missing(keys):
            node = path[index]
            count = len(node.tokens) // TOKEN_BYTES
            if count < BLOCK and not (ends and count >= LEAST_TAIL):
                break
            if not self._section.takes(self._cache.block_bytes):
                break
            data = self._copy.copy_out(node.block, count, self._store.buffers.take)
            if data is None:
                break
            assert node.parent is not None
            before = node.parent.key
            self._section.put(lease.salt, index * BLOCK, before, node.key, node.tokens, data)
        if ends:
            for key in keys[-2:]:
                self._section.end(key)

    def drop(self, keys: Sequence[bytes]) -> None:
        """Have the files removed that hold any of some blocks."""
        self.make_way()  # what is being read may be of these
        self._section.drop(keys)

    def _waited_for(self) -> Read | Starting | None:
        if self._starting is not None and not self._starting.is_over:
            return self._starting
        return next((reading.read for reading in self._reading.values()), None)

    def _begin(
        self,
        request: Request,
        continuation: Continuation,
        asked: Asked,
        has_room: Callable[[Match[Stack]], bool],
        evict_for: Callable[[int], bool],
    ) -> Reading | None:
        """Begin to read for one sequence; None: there is no use in it, or no room."""
        if asked.tries.get(continuation, 0) >= MOST_TRIES or continuation.offset:
            return None
        tokens = findable(continuation)
        found = self._find(continuation, tokens, request.key_salt, asked)
        if found.num_tokens < LEAST_GAIN:
            return None
        match = self._known.find(continuation, request.key_salt)
        if found.num_tokens < match.num_tokens + LEAST_GAIN or not has_room(match):
            match.lease.release()
            return None
        for other in self._reading.values():  # which brings as much, to somebody else
            shared = min(num_shared(other.tokens, tokens), other.found.num_tokens)
            if other.lease.salt == request.key_salt and shared >= match.num_tokens + LEAST_GAIN:
                match.lease.release()
                return other
        match = self._known.only_whole(match, continuation, request.key_salt)
        first = match.num_tokens // BLOCK
        wanted = self._wanted(found, first, tokens, asked.keys[continuation][1])
        num_bytes = sum(self._copy.group_bytes[group] for of in wanted for group in of.groups)
        seconds = self._seconds(match.num_tokens, found.num_tokens)
        landing = None
        if not self._is_slower(num_bytes, seconds):
            landing = self._landing(wanted, num_bytes, evict_for)
        if landing is None:
            match.lease.release()
            return None
        asked.tries[continuation] = asked.tries.get(continuation, 0) + 1
        patience = READ_PATIENCE if seconds is None else min(seconds, READ_PATIENCE)
        read = self._section.read(wanted, landing, max(patience, LEAST_PATIENCE))
        reading = Reading(read, landing, match.lease, tokens, first, found)
        self._reading[request] = reading
        return reading

    def _find(self, continuation: Continuation, tokens: Tokens, salt: str, asked: Asked) -> Found:
        root = self._section.namespace.root(salt)
        if self._section.is_hanging:
            self._section.counters.misses["hanging"] += 1
            return Found((), 0, False)
        if not self._section.has_any(root):
            return Found((), 0, False)
        length, keys = asked.keys.get(continuation, (-1, []))
        if length != len(tokens):
            keys = [root, *chain(root, tokens)]
            asked.keys[continuation] = len(tokens), keys
        return self._section.find(keys, token_bytes(tokens))

    def _wanted(
        self, found: Found, first: int, tokens: Tokens, keys: Sequence[bytes]
    ) -> list[Wanted]:
        """The blocks to read, from number `first` on, of each the groups that what comes sees."""
        data, size, wanted = token_bytes(tokens), BLOCK * TOKEN_BYTES, []
        last = len(found.places) - 1
        for index in range(first, last + 1):
            groups = tuple(
                group
                for group, window in enumerate(self._cache.windows)
                if index >= first_needed(window, found.num_tokens) // BLOCK
            )
            piece = None
            if index < last or not found.is_near:
                num_bytes = found.places[index].num_tokens * TOKEN_BYTES
                piece = data[index * size : index * size + num_bytes]
            wanted.append(Wanted(found.places[index], keys[index], piece, groups))
        return wanted

    def _seconds(self, num_known: int, num_tokens: int) -> float | None:
        """How long computing these tokens takes; None: no prompt has been read yet."""
        if not self._step_time.knows_prompts:
            return None
        count = num_tokens - num_known
        return self._step_time.predict(count, attended_by(num_known, count))

    def _is_slower(self, num_bytes: int, seconds: float | None) -> bool:
        """Whether reading so many bytes takes longer than so many seconds of computing."""
        reading = self._store.read_seconds(num_bytes)
        if seconds is None or reading is None or reading <= seconds:
            return False
        self._section.counters.misses["slower"] += 1
        return True

    def _landing(
        self, wanted: Sequence[Wanted], num_bytes: int, evict_for: Callable[[int], bool]
    ) -> Landing | None:
        """Blocks to read into; None: there is no room."""
        if not evict_for(num_bytes):
            return None
        try:
            taken = [
                iter(memory.take(sum(group in of.groups for of in wanted)))
                for group, memory in enumerate(self._cache.memories)
            ]
        except CacheFullError:
            return None
        stacks = []
        for of in wanted:
            blocks: list[Block | None] = [
                next(new) if group in of.groups else None for group, new in enumerate(taken)
            ]
            stacks.append(Stack(blocks, is_stored=True))
        return Landing(self._copy, stacks)

    def _land(self, request: Request, reading: Reading) -> None:
        """Take what has arrived of a read into the tree."""
        read, first = reading.read, reading.first
        if read.is_late:
            self._section.late(read)
        count = read.end()
        asked = self._asked.get(request)
        if asked is not None:
            asked.fault = asked.fault or ("late" if read.is_late else read.fault)
        if not count:
            reading.lease.release()
            return
        stacks = [Stack(())] * first + list(reading.landing.stacks[:count])
        tokens = reading.tokens[: min((first + count) * BLOCK, reading.found.num_tokens)]
        if count == len(read.wanted) and reading.found.is_near:
            assert read.last_tokens is not None
            tokens = np.concatenate([tokens, np.asarray(token_ids(read.last_tokens))])
        assert blocks_of(len(tokens)) == len(stacks)
        salt = reading.lease.salt
        self._known.insert(tokens, stacks, salt, reading.lease, ends=True).release()
        if asked is not None:
            asked.came = first * BLOCK, len(tokens)
