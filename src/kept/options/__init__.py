"""What a caller can set: how one option is checked, and the options of a cache."""

from kept.options.cache_fields import (
    CACHE_FIELDS,
    KV_DTYPES,
    CacheField,
    CacheImplementation,
    EvictionScore,
    KVDtype,
    KVDtypeName,
    Overflow,
)
from kept.options.cache_options import CacheOptions
from kept.options.field import Field, check_given
from kept.options.keywords import refuse_keywords, refuses_others
from kept.options.reader import GENERATION_CONFIG, Reader
from kept.options.resolved_cache import ResolvedCacheOptions
from kept.options.store_options import PREFIX_STORE, STORE_BYTES

__all__ = [
    "CACHE_FIELDS",
    "GENERATION_CONFIG",
    "KV_DTYPES",
    "PREFIX_STORE",
    "STORE_BYTES",
    "CacheField",
    "CacheImplementation",
    "CacheOptions",
    "EvictionScore",
    "Field",
    "KVDtype",
    "KVDtypeName",
    "Overflow",
    "Reader",
    "ResolvedCacheOptions",
    "check_given",
    "refuse_keywords",
    "refuses_others",
]
