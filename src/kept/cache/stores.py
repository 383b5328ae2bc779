"""Where the layers of one forward pass put their keys: a cache, or nowhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from kept.batch import Batch
from kept.cache.cache import Cache
from kept.cache.cross_step import CrossStep
from kept.cache.open_step import LayerStore, cross_store, not_stored
from kept.cache.shape import KVShape
from kept.errors import OptionError
from kept.ops import KVView, PackedView, Span


@contextmanager
def stores(
    cache: Cache | None, batch: Batch, shapes: Sequence[KVShape]
) -> Iterator[list[LayerStore]]:
    """The stores of one forward pass, with a cache or without. shapes: (L,) of the layers.

    Raises what `Cache.step` does, and OptionError for a sequence whose encoder input is neither in
    the batch nor in a cache.
    """
    if cache is not None:
        with cache.step(batch) as found:
            yield found
        return
    counts = batch.counts
    device = batch.tokens.device
    span = Span(batch.starts, tuple(range(len(counts))), counts, max(counts), device)
    passing = _Passing(span, frozenset(s.shares for s in shapes if s.shares is not None))
    own = [shape for shape in shapes if not shape.cross]
    found = [passing.store(index, shape.shares) for index, shape in enumerate(own)]
    yield found + _crossing(batch, shapes[len(own) :])


def _crossing(batch: Batch, shapes: Sequence[KVShape]) -> list[LayerStore]:
    if not shapes:
        return []
    check_sources(batch)
    slots, held = tuple(range(len(batch.counts))), [None] * len(batch.counts)
    step = CrossStep(batch.starts, slots, held, batch.source, shapes, batch.tokens.device)
    return [cross_store(step, layer) for layer in range(len(shapes))]


def check_sources(batch: Batch) -> None:
    """Raise OptionError where a sequence of a pass without a cache has no encoder input."""
    if batch.source is None or None in batch.source.of:
        raise OptionError(
            "a sequence comes without an encoder input, and there is no cache to hold one; pass "
            "input_ids, or the cache that has read them"
        )


class _Passing:
    """Keys and values of a pass without a cache: kept only while another layer is to read them."""

    def __init__(self, span: Span, shared: frozenset[int]) -> None:
        self._span, self._shared = span, shared
        self._views: dict[int, KVView] = {}

    def store(self, index: int, shares: int | None) -> LayerStore:
        """The store of one layer."""

        def put(k: Tensor, v: Tensor) -> KVView:
            view = PackedView(self._span, k, v)
            if index in self._shared:
                self._views[index] = view
            return view

        def get() -> KVView:
            assert shares is not None
            if shares not in self._views:
                raise not_stored(shares)
            return self._views[shares]

        return LayerStore(self._span, put) if shares is None else LayerStore(self._span, None, get)
