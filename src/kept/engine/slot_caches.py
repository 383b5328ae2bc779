"""Caches whose slots have memory of their own, as an engine makes and drops them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kept.blocks import Reservation
from kept.cache import Cache
from kept.ops import KVCodec


@dataclass(slots=True)
class Held:
    """A cache with what is reserved for it. longest: tokens that its slots may come to by that."""

    cache: Cache
    reserved: Reservation
    longest: int


@dataclass(frozen=True, slots=True)
class SlotCaches:
    """Caches of one kind. codec: of their keys and values. make: one of so many slots. num_bytes:
    what one of so many slots takes at most whose sequences come to so many tokens. first: one that
    there is, whose slot holds the beginning of the first request."""

    codec: KVCodec
    make: Callable[[int], Cache]
    num_bytes: Callable[[int, int], int]
    first: Held | None = None
