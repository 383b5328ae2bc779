"""What a draft model has computed of texts: keys that may go at any time, as drafts may.

    slot    tokens that are computed
      0     a b c d e | x y     of a text that runs: five are its own, two were only drafted
      1     a b c f             of one that has ended, from which the next that begins so goes on

They come out of the room that the texts themselves are in, at most the share that a token has of
what both models store of it, and go before anything that a text needs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from kept.blocks import BLOCK, blocks_of
from kept.cache import KVShape, make_cache
from kept.engine.continuation import Continuation
from kept.engine.finding import Tokens, num_shared
from kept.engine.room import Room
from kept.models import CausalLM
from kept.ops import KVCodec, find_kv_codec

NO_TOKENS = np.empty(0, dtype=np.int64)


@dataclass(slots=True, eq=False)
class DraftSlot:
    """What a slot holds: of a text the tokens from `start` on, the first `num` of them, and behind
    these what was `fed` to see what follows.

    continuation: whose they are, None: of a text that has ended, whose they were `text`.
    """

    number: int
    continuation: Continuation | None = None
    salt: str = ""
    start: int = 0
    num: int = 0
    fed: list[int] = field(default_factory=list)
    text: Tokens = field(default_factory=lambda: NO_TOKENS)
    used: float = 0.0

    @property
    def tokens(self) -> Tokens:
        """The tokens of its text that are computed."""
        text = self.text if self.continuation is None else self.continuation.history.tokens
        return text[self.start : self.start + self.num]

    @property
    def num_pending(self) -> int:
        """How many tokens of its text, which runs, are not computed yet."""
        assert self.continuation is not None
        return len(self.continuation.history) - self.start - self.num

    @property
    def pending(self) -> list[int]:
        """These tokens."""
        assert self.continuation is not None
        found: list[int] = self.continuation.history.tokens[self.start + self.num :].tolist()
        return found

    def settle(self) -> None:
        """Count those that were fed and came, all but the last token, which has yet to be read."""
        assert self.continuation is not None
        known = self.continuation.history.tokens[self.start :]
        for token in self.fed:
            if self.num >= len(known) or known[self.num] != token:
                break
            self.num += 1
        self.num = min(self.num, len(known) - 1)
        self.fed = []


class DraftKeys:
    """The slots of a draft model, a `Lender` in a room. Changed in the turn of the texts' model."""

    is_busy, is_running, promised = False, False, 0

    def __init__(self, model: CausalLM, num_slots: int, room: Room, share: float) -> None:
        """share: of the room, at most."""
        self._room = room
        limit = None
        if room.limit is not None:
            each = BLOCK * _token_bytes(model.kv_shapes, find_kv_codec(model.dtype))
            limit = max(int(share * room.limit), each)
        self.cache = make_cache(
            model.kv_shapes,
            num_slots=num_slots,
            dtype=model.dtype,
            pool_bytes=limit,
            keeps_all=True,
        )
        if room.limit is not None:
            for pool in self.cache.pools:
                pool.draw_on(room.budget)
        self.slots = [DraftSlot(number) for number in range(num_slots)]
        self._of: dict[Continuation, DraftSlot] = {}
        room.join(self)

    def help(self) -> None:
        """See `Helper.help`: nobody waits for drafts."""

    @property
    def returnable(self) -> int:
        """See `Lender.returnable`: all of it."""
        return sum(pool.num_reserved * pool.block_bytes for pool in self.cache.pools)

    def oldest(self, to_itself: bool) -> float | None:
        """See `Lender.oldest`: it goes first."""
        return None if to_itself or not self.returnable else 0.0

    def give_back(self, num_bytes: int, until: float, to_itself: bool) -> None:
        """See `Lender.give_back`."""
        least = self.returnable - num_bytes
        self.cache.release()
        for slot in sorted(self.slots, key=lambda slot: slot.used):
            if self.returnable <= max(least, 0):
                return
            self.drop(slot)
            self.cache.release()

    def find(self, continuation: Continuation) -> DraftSlot | None:
        """The slot of a text, its fed tokens settled; None: it has none."""
        slot = self._of.get(continuation)
        if slot is not None:
            slot.used = time.monotonic()
            slot.settle()
        return slot

    def seat(self, continuation: Continuation, salt: str) -> DraftSlot | None:
        """Give a text a slot, with as much as another has of its beginning; None: none is free."""
        free = [slot for slot in self.slots if slot.continuation is None]
        if not free:
            return None
        tokens = continuation.history.tokens[:-1]
        shared = {
            slot.number: num_shared(slot.tokens, tokens)
            for slot in self.slots
            if slot.salt == salt and not slot.start
        }
        best = max(self.slots, key=lambda slot: shared.get(slot.number, 0))
        count = shared.get(best.number, 0)
        if count and best.continuation is None:
            slot = best
        else:
            slot = min(free, key=lambda slot: (slot.num > 0, slot.used))
            self.drop(slot)
            if count:
                stacks = self.cache.share(best.number)[: blocks_of(count)]
                self.cache.adopt(slot.number, stacks, count)
        slot.continuation, slot.salt, slot.start, slot.num = continuation, salt, 0, count
        slot.text, slot.used = NO_TOKENS, time.monotonic()
        self._of[continuation] = slot
        return slot

    def leave(self, continuation: Continuation) -> None:
        """Note that a text has ended; who begins like it may go on from there."""
        slot = self._of.pop(continuation, None)
        if slot is not None:
            slot.settle()
            slot.text, slot.continuation = continuation.history.tokens.copy(), None

    def cut(self) -> None:
        """Have every slot hold what is computed of its text alone."""
        self.cache.truncate([slot.num for slot in self.slots])

    def has_room(self, slots: list[DraftSlot], counts: list[int]) -> bool:
        """Have room for so many tokens more in some slots, at the cost of texts that have ended,
        of both models; whether there is."""
        needed = sum(self.cache.num_new_bytes([slot.number for slot in slots], counts))
        most = sum(pool.num_blocks * pool.block_bytes for pool in self.cache.pools)
        idle = [slot for slot in self.slots if slot.continuation is None and slot.num]
        idle.sort(key=lambda slot: slot.used, reverse=True)
        while self._num_used + needed > most and idle:
            self.drop(idle.pop())
        if self._num_used + needed > most:
            return False
        return self._room.limit is None or self._room.make(lambda: needed - self._free, self)

    def drop(self, slot: DraftSlot) -> None:
        """Let go of what a slot holds; its text, if it runs, has none then."""
        if slot.continuation is not None:
            self._of.pop(slot.continuation, None)
        self.cache.truncate_slot(slot.number, 0)
        slot.continuation, slot.text, slot.num, slot.start, slot.fed = None, NO_TOKENS, 0, 0, []

    def forget(self) -> None:
        """Let go of everything, and of its memory."""
        self.cache.abandon()
        for slot in self.slots:
            self.drop(slot)
        self.cache.release()

    @property
    def _num_used(self) -> int:
        return sum(pool.num_used * pool.block_bytes for pool in self.cache.pools)

    @property
    def _free(self) -> int:
        unused = sum(pool.num_reserved * pool.block_bytes for pool in self.cache.pools)
        return unused - self._num_used + max(0, self._room.budget.free)


def share_of(draft: CausalLM, model: CausalLM, codec: KVCodec) -> float:
    """The part of what both models store of a token that is the draft model's."""
    own = _token_bytes(draft.kv_shapes, find_kv_codec(draft.dtype))
    return own / (own + _token_bytes(model.kv_shapes, codec))


def _token_bytes(shapes: Sequence[KVShape], codec: KVCodec) -> int:
    """Bytes that layers store of a token."""
    stored = [shape for shape in shapes if shape.shares is None and not shape.cross]
    return sum(x.num_kv_heads * codec.num_bytes(x.head_dim, x.stored_value_width) for x in stored)
