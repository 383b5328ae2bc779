"""Where the layers of one forward pass put their keys: a cache, or nowhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from kept.batch import Batch
from kept.cache.cache import Cache
from kept.cache.cross import CrossStep
from kept.cache.open_step import LayerStore, cross_store
from kept.cache.shape import KVShape
from kept.errors import OptionError
from kept.ops import PackedView, Span


@contextmanager
def stores(
    cache: Cache | None, batch: Batch, num_layers: int, cross: Sequence[KVShape] = ()
) -> Iterator[list[LayerStore]]:
    """The stores of one forward pass, with a cache or without; those of cross layers come last.

    num_layers: L. cross: what the cross layers store. Raises OptionError for a sequence whose
    encoder input is neither in the batch nor in a cache.
    """
    if cache is not None:
        with cache.step(batch) as found:
            yield found
        return
    counts = batch.counts
    device = batch.tokens.device
    slots = tuple(range(len(counts)))
    span = Span(batch.starts, slots, counts, max(counts), device)
    found = [LayerStore(span, lambda k, v: PackedView(span, k, v))] * num_layers
    if not cross:
        yield found
        return
    if batch.source is None or None in batch.source.of:
        raise OptionError(
            "a sequence comes without an encoder input, and there is no cache to hold one; pass "
            "input_ids, or the cache that has read them"
        )
    held = [None] * len(counts)
    step = CrossStep(batch.starts, slots, held, batch.source, None, device, cross)
    yield found + [cross_store(step, layer) for layer in range(len(cross))]
