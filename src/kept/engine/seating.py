"""Which residents the sequences of an engine are, by where their keys lie."""

from __future__ import annotations

from kept.cache import Cache
from kept.engine.counters import Counters
from kept.engine.known import Known
from kept.engine.needs import Needs
from kept.engine.pooled import PooledResidents
from kept.engine.residents import Residents
from kept.engine.room import Lender, Room
from kept.engine.slot_caches import SlotCaches
from kept.engine.slotted import SlottedResidents
from kept.engine.window import ContextRule
from kept.models import CausalLM


def seat(
    model: CausalLM,
    cache: Cache | SlotCaches | None,
    rule: ContextRule,
    num_slots: int,
    prefill_chunk: int | None,
    counters: Counters,
    room: Room,
    owner: Lender,
) -> Residents:
    """Residents of a cache; owner: who answers for them in the room.

    They share keys where these lie in blocks and depend on nothing but the tokens before them.
    """
    if isinstance(cache, SlotCaches):
        return SlottedResidents(cache, num_slots, rule, room, owner)
    if cache is None or not cache.pools:
        return Residents(cache, num_slots)
    shares = not (rule.slides or model.is_encoder_decoder or model.keys_follow_length)
    known = Known(cache) if shares else None
    needs = Needs(cache, rule, prefill_chunk, parks=shares)
    return PooledResidents(cache, num_slots, known, needs, rule, counters, room, owner)
