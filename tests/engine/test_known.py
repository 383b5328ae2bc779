"""What texts of windowed layers are known as, and what of it could make way."""

from __future__ import annotations

import numpy as np
import torch

from kept.batch import pack
from kept.blocks import Reason
from kept.cache import KVShape, make_cache
from kept.engine.known import LEAST_REMEMBERED, Known


def test_a_block_that_two_texts_end_in_makes_way_once() -> None:
    """The beginning of a text and what goes on in its last block are stacks of their own."""
    cache = make_cache((KVShape(1, 4), KVShape(1, 4, window=100)), num_slots=1)
    known, tokens = Known(cache), np.arange(80)

    def feed(count: int) -> None:
        past = cache.lengths[0]
        row = torch.ones(count, 1, 4)
        with cache.step(pack([[1] * count], past=[past], slots=[0])) as stores:
            for store in stores:
                store.append(row, row)

    feed(70)
    lease = known.insert(tokens[:70], cache.share(0), "", None, ends=False)
    feed(5)
    known.insert(tokens[:75], cache.share(0), "", None, ends=True).release()
    assert (known.tree.num_blocks, known.tree.num_evictable, known.num_bytes()) == (3, 0, 0)
    assert known.oldest is not None, "what goes on in the block is a text, whose end may go"
    lease.release()
    cache.truncate_slot(0, 0)
    assert (known.tree.num_blocks, known.num_bytes()) == (2, 2 * cache.block_bytes)
    while known.evict():
        pass  # until nothing may go
    assert (known.oldest, known.num_bytes()) == (None, 0)
    assert [pool.num_used for pool in cache.pools] == [0, 0]


def test_it_remembers_no_more_blocks_that_went_than_the_pool_has() -> None:
    """What is known of them would else come to more than a small pool."""
    shapes = (KVShape(1, 4),)
    each = make_cache(shapes, num_slots=1).block_bytes
    for num_blocks, remembered in ((3, LEAST_REMEMBERED), (100, 100)):
        cache = make_cache(shapes, num_slots=1, pool_bytes=num_blocks * each)
        known, texts = Known(cache), [np.full(64, i) for i in range(remembered + 10)]
        for text in texts:
            row = torch.ones(64, 1, 4)
            with cache.step(pack([[1] * 64], past=[0], slots=[0])) as [store]:
                store.append(row, row)
            known.insert(text, cache.share(0), "", None, ends=True).release()
            cache.truncate_slot(0, 0)
            assert known.evict()
        found = [known.tree.match(text).miss.reason for text in texts]
        assert found == [Reason.UNKNOWN] * 10 + [Reason.EVICTED] * remembered
