"""Keys and values of two sizes give the bits of one size, filled up with zeros; and values that lie
in keys those of values that lie apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kept.cache import KVShape, make_cache
from kept.ops import AttentionSpec, attend_stored, use_threads

CODECS = ("float32", "float16", "bfloat16", "int8", "int4", "k8v4", ("int4", "bfloat16"))
WIDTHS = ((48, 32), (24, 72), (5, 130), (576, 512))
# Filled up, int4 keys would be turned otherwise.
CASES = [
    (key, value, codec)
    for key, value in WIDTHS
    for codec in CODECS
    if key > value or codec not in ("int4", ("int4", "bfloat16"))
]
LENGTH = 1100  # more than a chunk, which is merged


def attended(shape: KVShape, codec: object, k: Tensor, v: Tensor, q: Tensor) -> Tensor:
    """The last rows' attention over a cache of one layer: (N, H, D)."""
    cache = make_cache([shape], kv_dtype=codec)  # type: ignore[arg-type]
    rest = k.shape[2] - len(q)
    cache.put(k[:, :, :rest], v[:, :, :rest], 0)
    return attend_stored(q, cache.put(k[:, :, rest:], v[:, :, rest:], 0), AttentionSpec(0.2))


def padded(x: Tensor, width: int) -> Tensor:
    """With zeros behind."""
    return torch.nn.functional.pad(x, (0, width - x.shape[-1]))


@pytest.mark.parametrize(("key", "value", "codec"), CASES)
def test_two_sizes(isa: str, key: int, value: int, codec: object) -> None:
    generator = torch.Generator().manual_seed(key + value)
    length = LENGTH if key == 48 else 90
    k = torch.randn(1, 2, length, key, generator=generator)
    v = torch.randn(1, 2, length, value, generator=generator)
    wide = max(key, value)
    for rows in (1, 40):
        q = torch.randn(rows, 6, key, generator=generator)
        found = attended(KVShape(2, key, value_dim=value), codec, k, v, q)
        together = attended(KVShape(2, wide), codec, *(padded(x, wide) for x in (k, v, q)))
        assert torch.equal(found, together[..., :value])


def keys_in(key: int, rows: int) -> tuple[Tensor, Tensor]:
    """Keys and queries, the largest of whose numbers is the first."""
    generator = torch.Generator().manual_seed(key)
    k = torch.randn(1, 1, 90, key, generator=generator)
    k[..., 0] = 5.0  # so that a value alone has the scale that the whole key has
    return k, torch.randn(rows, 4, key, generator=generator)


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("codec", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize(("key", "value"), [(48, 32), (96, 64), (576, 512)])
def test_values_in_keys(isa: str, key: int, value: int, codec: str, rows: int) -> None:
    k, q = keys_in(key, rows)
    inside = KVShape(1, key, value_dim=value, values_in_keys=True)
    found = attended(inside, codec, k, k[..., :value], q)
    apart = attended(KVShape(1, key, value_dim=value), codec, k, k[..., :value], q)
    assert torch.equal(found, apart)


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize(("key", "value"), [(48, 32), (96, 64), (576, 512)])
def test_values_in_turned_keys(
    isa: str, monkeypatch: pytest.MonkeyPatch, key: int, value: int, rows: int
) -> None:
    k, q = keys_in(key, rows)
    inside = KVShape(1, key, value_dim=value, values_in_keys=True)
    found = attended(inside, "int4", k, k[..., :value], q)
    monkeypatch.setenv("KEPT_OPS", "reference")
    exact = attended(inside, "int4", k, k[..., :value], q)
    assert (found - exact).norm() < 4e-3 * exact.norm()


def test_sums_over_wide_heads_stay_within_an_int32(isa: str) -> None:
    shape, size = KVShape(1, 576, value_dim=512, values_in_keys=True), 254 / 256
    k = torch.full((1, 1, 3, 576), 127.0)
    k[0, 0, 1] = -127.0
    found = attended(shape, "int8", k, k[..., :512], torch.full((1, 2, 576), size))
    torch.testing.assert_close(found, torch.full((1, 2, 512), 127.0))


@pytest.mark.parametrize("codec", ["float32", "bfloat16", "int8", "int4"])
def test_threads_share_the_heads_of_a_row(isa: str, codec: str) -> None:
    inside = KVShape(1, 48, value_dim=32, values_in_keys=True)
    k = torch.randn(1, 1, LENGTH, 48)
    for heads, rows in ((32, 1), (24, 2), (5, 1), (200, 1)):
        q = torch.randn(rows, heads, 48)
        found = attended(inside, codec, k, k[..., :32], q)
        for threads in (1, 3, 7):
            use_threads(threads)
            assert torch.equal(attended(inside, codec, k, k[..., :32], q), found)
        few = attended(inside, codec, k, k[..., :32], q[:, :4])
        assert torch.equal(few, found[:, :4])
