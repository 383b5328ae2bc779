"""Where the layers of one forward pass put their keys: a cache, or nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kept.batch import Batch
from kept.cache.cache import Cache
from kept.cache.open_step import LayerStore
from kept.ops import PackedView, Span


@contextmanager
def stores(cache: Cache | None, batch: Batch, num_layers: int) -> Iterator[list[LayerStore]]:
    """The stores of one forward pass, with a cache or without."""
    if cache is not None:
        with cache.step(batch) as found:
            yield found
        return
    counts = batch.counts
    device = batch.tokens.device
    span = Span(batch.starts, tuple(range(len(counts))), counts, max(counts), device)
    yield [LayerStore(span, lambda k, v: PackedView(span, k, v))] * num_layers
