"""The tuple format goes in and out of every cache bit for bit."""

import pytest
import torch
from torch import Tensor

from kept.cache import from_legacy, to_legacy
from kept.errors import CacheError, OptionError
from laws.kinds import KINDS, NAMES, Kind
from laws.plain import PlainCache
from laws.rounding import rounded, sides
from laws.steps import step

every_kind = pytest.mark.parametrize("kind", KINDS, ids=NAMES)


def options(kind: Kind) -> dict[str, object]:
    """What `from_legacy` needs to make this kind; tuples know no windows of layers."""
    found = {k: v for k, v in kind.options.items() if k not in ("in_blocks", "keeps_all")}
    return found if kind.kind != "sliding" else {"sliding_window": 4, **found}


def tuples(
    num_tokens: int, dtype: torch.dtype = torch.float32, num_read: int | None = None
) -> list[tuple[Tensor, ...]]:
    """Two layers of two sequences. num_read: tokens of an encoder input, None: there is none."""
    counts = [num_tokens] * 2 + ([] if num_read is None else [num_read] * 2)
    shapes = ((1, 3), (2, 4))
    return [tuple(torch.randn(2, g, n, d).to(dtype) for n in counts) for g, d in shapes]


def left(x: Tensor, codecs: tuple[str, str], which: int) -> Tensor:
    """What the codec of keys (0) or of values (1) leaves."""
    return rounded(x, codecs[which], are_keys=not which) if x.numel() else x


def assert_same(found: object, expected: object) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_tokens", [0, 1, 4])
def test_in_and_out_again(kind: Kind, num_tokens: int, dtype: torch.dtype) -> None:
    num_read = 5 if kind.cross else None
    layers = tuples(num_tokens, dtype, num_read)
    codec = None if kind.codec == "float32" else kind.codec
    cache = from_legacy(layers, kind.kind, kv_dtype=codec, **options(kind))
    assert cache.lengths == (num_tokens, num_tokens)
    assert cache.input_lengths == (num_read or 0,) * 2
    assert cache.dtype == (dtype if codec is None else cache.codec.dtype)
    if codec is not None:
        layers = [
            tuple(left(x, sides(codec), i % 2).to(cache.dtype) for i, x in enumerate(tensors))
            for tensors in layers
        ]
    assert_same(to_legacy(cache), tuple(layers))


@every_kind
def test_out_is_a_copy_of_every_token(kind: Kind) -> None:
    cache, plain = kind.make(2), PlainCache.empty(kind, 2)
    generator = torch.Generator().manual_seed(2)
    step(cache, plain, [3, 1], [0, 1], generator)
    with pytest.raises(CacheError, match=r"one length.*\[3, 1\].*truncate"):
        to_legacy(cache)
    step(cache, plain, [2], [1], generator)
    if kind.cross:
        with pytest.raises(CacheError, match=r"one length.*\[1, 4\].*select"):
            to_legacy(cache)
        return
    if any(plain.gone(1, layer, 0, 3) for layer in range(2)):
        with pytest.raises(CacheError, match="no longer holds"):
            to_legacy(cache)
        return
    before = to_legacy(cache)
    kept = [(k.clone(), v.clone()) for k, v in before]
    layers = [*range(len(kind.shapes)), *kind.readers]
    for layer, (keys, values) in zip(layers, before, strict=True):
        for slot in range(2):
            tokens = plain.slots[slot].layers[layer]
            for found, expected in zip((keys, values), zip(*tokens, strict=True), strict=True):
                assert torch.equal(found[slot], torch.stack(expected, dim=1).to(cache.dtype))
    cache.reset()
    assert_same(before, tuple(kept))


def test_a_window_that_let_tokens_go_says_so() -> None:
    cache = from_legacy(tuples(199), "sliding", sliding_window=4)
    with pytest.raises(CacheError, match=r"tokens 0 to 128.*last 4.*dynamic"):
        to_legacy(cache)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "one .keys, values. pair per layer"),
        ([(torch.zeros(1, 2, 3, 4),) * 4, (torch.zeros(1, 2, 3, 4),) * 2], "keys, values, keys"),
        ([(*(torch.zeros(1, 2, 3, 4),) * 2, *(torch.zeros(2, 2, 3, 4),) * 2)], "layer 0 has keys"),
        ([(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3))], "need .batch, heads, time, head."),
        ([(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 4, 4))], "layer 0 has keys"),
        ([(torch.zeros(1, 2, 3, 4),) * 2, (torch.zeros(1, 2, 5, 4),) * 2], "layer 1 has keys"),
        (
            [(torch.zeros(1, 2, 3, 4),) * 2, (torch.zeros(1, 2, 3, 4).half(),) * 2],
            "layer 1 is torch.float16",
        ),
    ],
)
def test_tuples_that_make_no_cache(layers: list[tuple[Tensor, Tensor]], message: str) -> None:
    with pytest.raises(CacheError, match=message):
        from_legacy(layers)


def test_tuples_longer_than_a_static_cache() -> None:
    with pytest.raises(CacheError, match="3 tokens a sequence and 4 would be stored"):
        from_legacy(tuples(4), "static", max_cache_len=3)
    with pytest.raises(OptionError, match="max_cache_len"):
        from_legacy(tuples(4), "static")
