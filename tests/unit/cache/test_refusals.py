"""What a cache is asked for that there is not, and where an encoder input comes to lie."""

from pathlib import Path

import pytest
import torch

from kept.batch import pack
from kept.cache import Cache, KVShape, Offloaded, load_cache, make_cache
from kept.errors import CacheError, OptionError
from kept.ops import AttentionSpec

SHAPE = KVShape(2, 4)
SHAPES = (SHAPE, KVShape(2, 4, cross=True))


def filled(place: Offloaded | None = None) -> Cache:
    """Three tokens, and an input of two."""
    cache = make_cache(SHAPES, place=place)
    with cache.step(pack([[0] * 3], sources=[[5, 6]])) as (own, cross):
        own.append(*torch.randn(2, 3, 2, 4))
        cross.append(*torch.randn(2, 2, 2, 4))
    return cache


@pytest.mark.parametrize("index", [-1, 2, 99])
def test_a_layer_that_there_is_not(index: int) -> None:
    cache = filled()
    for read in (cache.layer, cache.held):
        with pytest.raises(OptionError, match=f"layer {index} is none of the 2"):
            read(index)


def test_tokens_before_the_first() -> None:
    for layer in (0, 1):
        with pytest.raises(OptionError, match="begin=-1 is before the first token"):
            filled().layer(layer, begin=-1)


def test_inputs_lie_where_they_are_asked_for(tmp_path: Path) -> None:
    cache, place = filled(), Offloaded(Path(__file__).parent, 1 << 20)
    cache.save(tmp_path / "file")
    loaded = load_cache(tmp_path / "file", SHAPES, place=place)
    joined = filled(place).concatenate([cache])
    for found in (loaded, joined):
        buffers = [
            x for held in found.cross.inputs for of in held.layers for x in of.keys + of.values
        ]
        assert len(buffers) == 2 * found.num_slots
        assert all(x in place._files for x in buffers)
    for read, expected in zip(joined.layer(1)[1], cache.layer(1)[0], strict=True):
        assert torch.equal(read, expected)
    assert joined.num_bytes == filled(place).concatenate([filled(place)]).num_bytes


def observed(cache: Cache, heads: int) -> None:
    """A step of one token, and of queries of so many heads."""
    with cache.step(pack([[0]], past=list(cache.lengths))) as (store,):
        store.append(*torch.randn(2, 1, 2, 4))
        store.observe(torch.randn(1, heads, 4), AttentionSpec(1.0))


@pytest.mark.parametrize("heads", [0, 1, 3, 8])
def test_queries_of_other_heads(heads: int) -> None:
    cache = make_cache([SHAPE], "evicting", budget=8, policy="attention")
    observed(cache, 4)
    with pytest.raises(CacheError, match="do not fit this layer"):
        observed(cache, heads)
    assert cache.lengths == (1,)
