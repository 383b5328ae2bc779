"""Which residents the sequences of an engine are, by where their keys lie."""

from __future__ import annotations

from kept.cache import BlockBytes, Cache
from kept.engine.counters import Counters
from kept.engine.known import Known
from kept.engine.needs import Needs
from kept.engine.pooled import PooledResidents
from kept.engine.residents import Residents
from kept.engine.room import Lender, Room
from kept.engine.slot_caches import SlotCaches
from kept.engine.slotted import SlottedResidents
from kept.engine.step_time import StepTime
from kept.engine.stored import Stored
from kept.engine.window import ContextRule
from kept.models import CausalLM
from kept.store import PrefixStore


def seat(
    model: CausalLM,
    cache: Cache | SlotCaches | None,
    rule: ContextRule,
    num_slots: int,
    prefill_chunk: int | None,
    counters: Counters,
    room: Room,
    owner: Lender,
    step_time: StepTime,
    store: PrefixStore | None = None,
) -> Residents:
    """Residents of a cache; owner: who answers for them in the room. store: what outlives the
    process; step_time: what computing takes, where reading from there may be faster.

    They share keys where these lie in blocks and depend on nothing but the tokens before them; not
    where layers have sinks, as texts are found by what their windows hold alone. What is stored
    goes to the kernels alone: on torch what is beside a text changes its rounding.
    """
    if isinstance(cache, SlotCaches):
        return SlottedResidents(cache, num_slots, rule, room, owner)
    if cache is None or not cache.can_share:
        return Residents(cache, num_slots)
    follows = rule.slides or model.is_encoder_decoder or model.keys_follow_length
    shares = not (follows or any(cache.sinks))
    needs = Needs(cache, rule, prefill_chunk, parks=shares)
    if not shares:
        return PooledResidents(cache, num_slots, None, needs, rule, counters, room, owner)
    if store is None or model.native is None or not BlockBytes.can_copy(cache):
        known = Known(cache)
        return PooledResidents(cache, num_slots, known, needs, rule, counters, room, owner)
    space = store.namespace(cache.codec.name, cache.windows)
    known, section = Known(cache, space), store.section(space, cache.block_bytes)
    stored = Stored(cache, known, section, store, step_time)
    return PooledResidents(cache, num_slots, known, needs, rule, counters, room, owner, stored)
