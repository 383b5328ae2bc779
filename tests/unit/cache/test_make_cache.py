"""What `make_cache` and `update` refuse, and that they say value, limit and remedy."""

from typing import Any

import numpy as np
import pytest
import torch

from kept.cache import Cache, KVShape, make_cache
from kept.errors import CacheError, OptionError

SHAPES = [KVShape(2, 4), KVShape(2, 4)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "paged"}, "'paged'; there are dynamic, static, sliding"),
        ({"shapes": []}, "0 layers.*at least 1.*kv_shapes"),
        ({"shapes": [KVShape(0, 4)]}, "layer 0.*num_kv_heads=0.*at least 1"),
        ({"shapes": [KVShape(1, 4, 0)]}, "layer 0.*window=0.*None"),
        ({"num_slots": 0}, "num_slots=0.*at least 1"),
        ({"kind": "static"}, "max_cache_len of at least 1, not None; give"),
        ({"kind": "static", "max_cache_len": 0}, "max_cache_len of at least 1, not 0; give"),
        ({"max_cache_len": 8}, "max_cache_len=8 is for static.*not dynamic.*kind='static'"),
        (
            {"kind": "sliding", "sliding_window": 4, "max_cache_len": 8},
            "max_cache_len=8 is for static caches, not sliding",
        ),
        ({"sliding_window": 4}, "sliding_window=4.*kind='sliding' in place of 'dynamic'"),
        (
            {"kind": "static", "max_cache_len": 8, "num_sinks": 1},
            "num_sinks=1.*kind='sliding' in place of 'static'",
        ),
        ({"kind": "sliding", "sliding_window": 0}, "sliding_window=0.*give at least 1"),
        ({"kind": "sliding", "sliding_window": 4, "num_sinks": -1}, "num_sinks=-1.*at least 0"),
        ({"kind": "sliding"}, "no window of their own.*sliding_window=N"),
        (
            {"shapes": [KVShape(1, 4, 8)], "kind": "sliding", "num_sinks": 2},
            "num_sinks=2 would do nothing where the model's own window of 8",
        ),
        ({"num_slots": 1.5}, "num_slots is 1.5; pass whole numbers"),
        ({"num_slots": 10**15}, "num_slots is 1,000,000,000,000,000, beyond 281,"),
        ({"num_slots": 10**5000}, r"num_slots is 0x[0-9a-f]+\.\.\., beyond 281,"),
        ({"kind": "sliding", "sliding_window": 2.5}, "sliding_window is 2.5; pass whole numbers"),
        ({"dtype": "float32"}, "dtype is 'float32'; pass a torch dtype"),
        ({"kv_dtype": "int5"}, "stored as 'int5'; there are .*float32.*int8, k8v4, int4"),
        ({"kv_dtype": ("int8", "int5")}, r"stored as \('int8', 'int5'\); there are .*and pairs"),
        ({"kv_dtype": torch.int8}, r"stored as torch\.int8; there are"),
        ({"device": "nope"}, "device 'nope' cannot be used"),
    ],
)
def test_options_that_cannot_be_honoured(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make_cache(**{"shapes": SHAPES, **options})


def test_a_sliding_cache_takes_the_narrower_window() -> None:
    cache = make_cache([KVShape(1, 2, 9), KVShape(1, 2, 3)], "sliding", sliding_window=5)
    assert cache.windows == (5, 3)


def test_repr_says_what_it_holds() -> None:
    cache = make_cache(SHAPES, "static", num_slots=2, max_cache_len=10)
    assert repr(cache) == ("<Cache static: 2 layers, lengths [0, 0], 2,560 bytes of float32>")


def kv(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(shape), torch.zeros(shape)


@pytest.mark.parametrize("layer", [-1, 2])
def test_update_of_a_layer_that_does_not_exist(layer: int) -> None:
    with pytest.raises(CacheError, match=f"layer {layer} does not exist.*layers 0 to 1"):
        make_cache(SHAPES).update(*kv(1, 2, 3, 4), layer)


@pytest.mark.parametrize(
    ("k", "v"),
    [
        (torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)),
        (torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 2, 4)),
        (torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 3, 4)),
        (torch.zeros(1, 2, 3, 1), torch.zeros(1, 2, 3, 1)),
        (torch.zeros(1, 2, 0, 4), torch.zeros(1, 2, 0, 4)),
        (torch.zeros(0, 2, 3, 4), torch.zeros(0, 2, 3, 4)),
        (torch.zeros(3, 2, 1, 4), torch.zeros(3, 2, 1, 4)),
    ],
)
def test_update_with_tensors_that_do_not_fit(k: torch.Tensor, v: torch.Tensor) -> None:
    cache = make_cache(SHAPES, num_slots=2)
    for layer in range(2):
        cache.update(*kv(2, 2, 1, 4), layer)
    with pytest.raises(CacheError, match=r"do not fit layer 0; pass .* = \(2, 2, T, 4\)"):
        cache.update(k, v, 0)
    assert cache.lengths == (1, 1)


def test_update_of_an_empty_cache_takes_on_its_batch() -> None:
    cache = make_cache(SHAPES)
    keys, values = cache.update(*kv(3, 2, 5, 4), 0)
    assert keys.shape == values.shape == (3, 2, 5, 4)
    with pytest.raises(CacheError, match=r"= \(3, 2, T, 4\)"):
        cache.update(*kv(2, 2, 5, 4), 1)
    with pytest.raises(CacheError, match=r"brings 4 new tokens.*brought 5"):
        cache.update(*kv(3, 2, 4, 4), 1)
    cache.update(*kv(3, 2, 5, 4), 1)
    assert cache.lengths == (5, 5, 5)


def test_update_of_one_layer_twice() -> None:
    cache = make_cache(SHAPES)
    cache.update(*kv(1, 2, 1, 4), 1)
    with pytest.raises(CacheError, match=r"layer 1 was updated twice.*\[0\] were not.*abandon"):
        cache.update(*kv(1, 2, 1, 4), 1)
    cache.abandon()
    cache.update(*kv(1, 2, 1, 4), 1)
    cache.update(*kv(1, 2, 1, 4), 0)
    assert cache.lengths == (1,)


@pytest.mark.parametrize(
    "length", [1.0, [1.5, 1.0], [float("nan"), 1], "11", None, True, [True, 1]]
)
def test_lengths_are_whole_numbers(length: Any) -> None:
    cache = filled()
    with pytest.raises(OptionError, match=r"length to truncate to is .*whole numbers"):
        cache.truncate(length)
    assert cache.lengths == (3, 3)


@pytest.mark.parametrize("length", [np.int64(2), torch.tensor(2), np.array([2, 2]), (2, 2)])
def test_lengths_may_come_as_numpy_or_torch_integers(length: Any) -> None:
    cache = filled()
    cache.truncate(length)
    assert cache.lengths == (2, 2)
    assert all(type(n) is int for n in cache.lengths)


@pytest.mark.parametrize("slots", [[0.7, 1.2], "01", 1, None, torch.tensor([True, False])])
def test_slots_are_whole_numbers(slots: Any) -> None:
    for operation in (filled().select, filled().reorder):
        with pytest.raises(OptionError, match=r"a slot to .*whole numbers"):
            operation(slots)


@pytest.mark.parametrize("count", [1.5, "2", None, True])
def test_repeats_are_whole_numbers(count: Any) -> None:
    with pytest.raises(OptionError, match=r"count to repeat is .*whole numbers"):
        filled().repeat(count)


def test_update_takes_tensors_of_real_numbers() -> None:
    k, v = kv(1, 2, 3, 4)
    with pytest.raises(CacheError, match="the keys are list"):
        make_cache(SHAPES).update(k.tolist(), v, 0)  # type: ignore[arg-type]
    with pytest.raises(CacheError, match=r"the values are torch\.complex64"):
        make_cache(SHAPES).update(k, v.to(torch.complex64), 0)
    with pytest.raises(OptionError, match=r"the layer is 0\.5"):
        make_cache(SHAPES).update(k, v, 0.5)  # type: ignore[arg-type]


def filled() -> Cache:
    cache = make_cache(SHAPES)
    for layer in range(len(SHAPES)):
        cache.update(*kv(2, SHAPES[layer].num_kv_heads, 3, SHAPES[layer].head_dim), layer)
    return cache
