"""Which residents the sequences of an engine are, by where their keys lie."""

from __future__ import annotations

from kept.cache import Cache
from kept.engine.counters import Counters
from kept.engine.pooled import PooledResidents, shared_tree
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
    counters: Counters,
    room: Room,
    owner: Lender,
) -> Residents:
    """Residents of a cache; owner: who answers for them in the room."""
    if isinstance(cache, SlotCaches):
        return SlottedResidents(cache, num_slots, rule, room, owner)
    if cache is None or cache.pool is None:
        return Residents(cache, num_slots)
    tree = shared_tree(model, cache, rule)
    return PooledResidents(cache, num_slots, tree, rule, counters, room, owner)
