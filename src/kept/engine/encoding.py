"""The encoder inputs of an engine's requests: found where they are known, else read one by one.

One by one, because on torch what a matrix product rounds depends on how many rows it has: so an
input's keys and values are the same bits whatever else there is to read, and one that is found is
what reading it again would give.
"""

from __future__ import annotations

from collections.abc import Sequence

from kept.blocks import Reason, Reservation
from kept.engine.counters import Counters
from kept.engine.inputs import FoundInput, Inputs, KeptInput
from kept.engine.request import Request
from kept.engine.residents import Residents
from kept.engine.room import Lender, Room
from kept.models import CausalLM, EncoderDecoderLM
from kept.ops import KVCodec

_SAID = {
    Reason.EVICTED: "evicted",
    Reason.OTHER_SALT: "known under another salt",
    Reason.UNKNOWN: "not read before",
}


class Encoding:
    """Which input each running request attends, of a model that has an encoder and a cache.

    codec: of the cache, None: there is none, and inputs come with every pass. is_needed: whether
    requests of this engine have any.
    """

    def __init__(
        self,
        model: CausalLM,
        inputs: Inputs,
        codec: KVCodec | None,
        residents: Residents,
        room: Room,
        owner: Lender,
        counters: Counters,
    ) -> None:
        self._model, self._inputs, self._codec = model, inputs, codec
        self.is_needed = model.is_encoder_decoder and codec is not None
        self._residents, self._room, self._owner = residents, room, owner
        self._counters = counters
        self._found: dict[Request, FoundInput] = {}
        self._set_aside: dict[Request, Reservation] = {}  # for what is to be read

    def num_bytes(self, request: Request) -> int:
        """Bytes of its input; 0: it has none that a cache holds."""
        source = request.group.members[0].source
        if source is None or self._codec is None:
            return 0
        each = sum(shape.num_bytes(self._codec) for shape in self._model.kv_shapes if shape.cross)
        return len(source) * each

    def start(self, request: Request, running: Sequence[Request]) -> bool:
        """`Residents.start`, with its input where that is known, or else room for it."""
        needed = self.num_bytes(request)
        if needed and not self._have(request, needed):
            needed += self._residents.needed_bytes(request)
            self._room.claim(self._owner, request, needed)
            return False
        beside = 0 if request in self._found else needed
        if not self._residents.start(request, running, beside):
            self.leave(request)
            return False
        if request in self._found:
            self._attend(request, "tree")
        return True

    def next(self, running: Sequence[Request]) -> Request | None:
        """A running request whose input is to be read before anything else; None: there is none."""
        cache = self._residents.cache
        if cache is None or not running:
            return None
        of = cache.cross.of
        for request in running:
            slots = [c.slot for c in request.live if c.slot is not None]
            if any(of[slot] is None for slot in slots):
                return request
        return None

    def read(self, request: Request) -> None:
        """Have it attend its input: found, where another has had it read meanwhile, else read.

        Mutates the cache. Raises what the encoder does, and CacheFullError where there is no room.
        """
        tokens, codec, cache = self._source(request), self._codec, self._residents.cache
        assert codec is not None
        assert cache is not None
        reserved = self._set_aside.pop(request, None)
        known, why = self._inputs.find(tokens, codec, request.salt)
        if known is None:
            assert isinstance(self._model, EncoderDecoderLM)
            reserved = reserved or self._room.budget.reserve(self.num_bytes(request))
            kept = KeptInput(self._model.encode_input(tokens, cache), reserved)
            known = self._inputs.put(tokens, codec, request.salt, kept)
            self._counters.encoded_tokens += len(tokens)
            self._counters.misses[why.value] += 1
            request.live[0].usage.miss = _SAID[why]
        self._found[request] = known
        self._attend(request, "running" if why is Reason.WHOLE else None)

    def leave(self, request: Request) -> None:
        """Let go of its input, which whoever comes may find, and of the room for it."""
        self._set_aside.pop(request, None)
        found = self._found.pop(request, None)
        if found is not None:
            found.lease.release()

    def restart(self) -> None:
        """After an exception in a step: nobody has any."""
        for request in [*self._found, *self._set_aside]:
            self.leave(request)

    def _source(self, request: Request) -> tuple[int, ...]:
        source = request.group.members[0].source
        assert source is not None
        return source

    def _have(self, request: Request, num_bytes: int) -> bool:
        """Find its input, or set room aside for it."""
        assert self._codec is not None
        found, _ = self._inputs.find(self._source(request), self._codec, request.salt)
        if found is not None:
            self._found[request] = found
            return True
        budget = self._room.budget
        if num_bytes > self._room.spare(self._owner):
            return False
        if not self._room.make(lambda: num_bytes - budget.free, self._owner):
            self._residents.forget()  # an idle cache of slots, which does not go for its own engine
            if num_bytes > budget.free:
                return False
        self._set_aside[request] = budget.reserve(num_bytes)
        return True

    def _attend(self, request: Request, source: str | None) -> None:
        """Have its slots attend what was found. source: where that came from, None: it was read."""
        cache, kept = self._residents.cache, self._found[request].kept
        assert cache is not None
        for continuation in request.live:
            assert continuation.slot is not None
            cache.attend(continuation.slot, kept.encoded)
        usage = request.live[0].usage
        if source is not None and not usage.num_computed and not usage.cached:
            usage.cached[source] = kept.encoded.length
            self._counters.cached_tokens[source] += kept.encoded.length
