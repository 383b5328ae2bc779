"""Where keys and values live: layouts, layers, and the cache that joins them."""

from kept.cache import pickling  # noqa: F401  # which tells pickle of caches
from kept.cache.block_bytes import BlockBytes
from kept.cache.block_layout import BlockLayout
from kept.cache.bounds import most_slot_bytes
from kept.cache.cache import Cache
from kept.cache.concatenate import concatenate
from kept.cache.contiguous import grown
from kept.cache.encoded_input import EncodedInput
from kept.cache.evicting import EVICTION_GRAIN
from kept.cache.files import load_cache, saved_shapes
from kept.cache.in_keys import why_not_in_keys
from kept.cache.indices import check_num_slots
from kept.cache.layer import LayerCache
from kept.cache.legacy import LegacyCache, from_legacy, to_legacy
from kept.cache.lending import Lease
from kept.cache.make import KINDS, make_cache
from kept.cache.open_step import LayerStore
from kept.cache.place import Offloaded, Place
from kept.cache.policy import SCORES, EvictionPolicy
from kept.cache.shape import KVShape
from kept.cache.stores import check_sources, stores
from kept.cache.window_blocks import first_needed, most_blocks, num_held

__all__ = [
    "EVICTION_GRAIN",
    "KINDS",
    "SCORES",
    "BlockBytes",
    "BlockLayout",
    "Cache",
    "EncodedInput",
    "EvictionPolicy",
    "KVShape",
    "LayerCache",
    "LayerStore",
    "Lease",
    "LegacyCache",
    "Offloaded",
    "Place",
    "check_num_slots",
    "check_sources",
    "concatenate",
    "first_needed",
    "from_legacy",
    "grown",
    "load_cache",
    "make_cache",
    "most_blocks",
    "most_slot_bytes",
    "num_held",
    "saved_shapes",
    "stores",
    "to_legacy",
    "why_not_in_keys",
]
