"""Which residents the sequences of an engine are, by where their keys lie."""

from __future__ import annotations

from kept.blocks import Block, Namespace, PrefixTree
from kept.cache import Cache
from kept.engine.counters import Counters
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
    counters: Counters,
    room: Room,
    owner: Lender,
) -> Residents:
    """Residents of a cache; owner: who answers for them in the room."""
    if isinstance(cache, SlotCaches):
        return SlottedResidents(cache, num_slots, rule, room, owner)
    if cache is None or cache.pool is None:
        return Residents(cache, num_slots)
    tree = _shared_tree(model, cache, rule)
    return PooledResidents(cache, num_slots, tree, rule, counters, room, owner)


def _shared_tree(model: CausalLM, cache: Cache, rule: ContextRule) -> PrefixTree[Block] | None:
    """What texts of a cache in blocks share, None: nothing, as their keys depend on more than the
    tokens before them."""
    if rule.slides or model.is_encoder_decoder or model.keys_follow_length:
        return None
    windows = [shape.window for shape in cache.shapes]
    # One engine's tree: its model and kernels are the same for all.
    return PrefixTree(Namespace("", "", "", cache.codec.name, windows))
