"""Codes made by the kernels of heads that come from torch."""

import pytest
import torch

from kept.ops import KEY_CODECS, VALUE_CODECS, Codec, encode_heads, use_threads

CODED = [
    pytest.param(codec, id=f"{codec.name} {side}")
    for side, codecs in (("keys", KEY_CODECS), ("values", VALUE_CODECS))
    for codec in codecs.values()
    if codec.is_coded
]
ODD = (0.0, -0.0, 1e-42, -3e-39, 1e38, -3.4e38, torch.inf, -torch.inf, torch.nan)


@pytest.mark.parametrize("codec", CODED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_bits_are_those_of_torch(codec: Codec, dtype: torch.dtype, isa: str) -> None:
    generator = torch.Generator().manual_seed(0)
    use_threads(3)
    for size in ((5, 3, 64), (1, 1), (2, 7), (3, 33), (0, 4, 16), (700, 2, 48), (2, 512)):
        x = (
            torch.randn(size, generator=generator)
            * 10 ** torch.randn(size[:-1], generator=generator)[..., None]
        )
        found, expected = encode_heads(codec, x.to(dtype)), codec.encode(x.to(dtype))
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))


@pytest.mark.parametrize("codec", CODED)
def test_odd_numbers(codec: Codec, isa: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for odd in ODD:
        x = torch.randn(4, 40, generator=generator)
        x[1, 3], x[2], x[3, 35:] = odd, odd, odd
        (codes, scales), (others, theirs) = encode_heads(codec, x), codec.encode(x)
        assert torch.equal(codes, others)
        torch.testing.assert_close(scales, theirs, rtol=0, atol=0, equal_nan=True)


def test_what_is_cut_from_other_tensors() -> None:
    codec, x = KEY_CODECS["int8"], torch.randn(6, 4, 20)
    for view in (x[::2], x.transpose(0, 1), x[..., ::2], x[:1].expand(5, 4, 20)):
        for one, other in zip(encode_heads(codec, view), codec.encode(view), strict=True):
            assert torch.equal(one, other)
