"""Codecs against their definition in numpy's float64, byte by byte."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws.rounding import head_bytes, pair_bytes, rounded, scale_of
from torch import Tensor

from kept.errors import OptionError
from kept.ops import KEY_CODECS, KV_CODECS, VALUE_CODECS, Codec, find_kv_codec, rotate_heads

LIMITS = {"int8": (-127, 127), "int4": (-8, 7)}
coded = pytest.mark.parametrize("codec", [VALUE_CODECS[name] for name in LIMITS], ids=LIMITS)
ROTATED = KEY_CODECS["int4"]
every_codec = pytest.mark.parametrize(
    "codec", [*VALUE_CODECS.values(), ROTATED], ids=[*VALUE_CODECS, "int4 keys"]
)
some_width = given(
    width=st.integers(1, 70), exponent=st.integers(-149, 120), seed=st.integers(0, 2**31)
)


def rows_of(width: int, exponent: int, seed: int) -> Tensor:
    """Six rows about 2 ** exponent large, some of whose elements are zero."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(6, width, generator=generator, dtype=torch.float64)
    x *= torch.rand(6, width, generator=generator) > 0.2
    return torch.ldexp(x, torch.tensor(exponent)).float()


def group_of(codec: Codec) -> int | None:
    return None if codec.name == "int8" else 32


def codes_of(codec: Codec, buffers: tuple[Tensor, ...], width: int) -> list[list[int]]:
    """Whole numbers, unpacked one by one."""
    if codec.name == "int8":
        found: list[list[int]] = buffers[0].tolist()
        return found
    rows = []
    for row in buffers[0].tolist():
        nibbles = [n for byte in row for n in (byte % 16, byte // 16)]
        assert nibbles[width:] in ([], [8])
        rows.append([n - 8 for n in nibbles[:width]])
    return rows


@coded
@settings(max_examples=60)
@some_width
def test_codes_and_scales_are_those_of_the_definition(
    codec: Codec, width: int, exponent: int, seed: int
) -> None:
    x, limit = rows_of(width, exponent, seed), LIMITS[codec.name]
    buffers = tuple(codec.encode(x))
    assert [(b.dtype, b.shape[-1]) for b in buffers] == [
        (part.dtype, part.width) for part in codec.parts(width)
    ]
    decoded = codec.decode(buffers, width)
    assert decoded.dtype == torch.float32
    codes, group = codes_of(codec, buffers, width), group_of(codec) or width
    low, high = limit
    for row, row_codes, scales, out in zip(x, codes, buffers[1].tolist(), decoded, strict=True):
        for i, scale in enumerate(scales):
            part = slice(i * group, (i + 1) * group)
            exact = row[part].numpy().astype(np.float64)
            assert scale == scale_of(row[part].numpy(), codec.name)
            assert all(low <= code <= high for code in row_codes[part])
            assert out[part].tolist() == [code * scale for code in row_codes[part]]
            if scale:
                errors = np.abs(exact - out[part].numpy().astype(np.float64))
                # int4 cuts off what is as far as its farthest number on the other side, and what
                # the rounding of the scale has moved past the ends.
                cut = (exact / scale > high + 0.5) | (exact / scale < low - 0.5)
                assert codec.name == "int4" or not cut.any()
                assert (errors[~cut] <= 0.5 * abs(scale) * (1 + 2**-20)).all()
                assert (errors[cut] <= abs(scale) * (1 + 2**-5) + 2**-131).all()
            else:
                assert not any(row_codes[part])
    assert torch.equal(decoded, rounded(x, codec.name))


def test_scales_of_int8_are_rounded_up_and_reach_the_limit() -> None:
    codec = VALUE_CODECS["int8"]
    for numerator in range(1, 2000):
        x = torch.full((1, 3), numerator / 1000)
        scale = codec.encode(x)[1].item()
        assert scale * 127 >= x.max().item() * (1 - 2**-23)
        assert scale * 127 < x.max().item() * (1 + 2**-7)
    exact = torch.tensor([[63.5, -1.25, 0.0]])
    assert codec.encode(exact)[1].item() == 0.5
    assert codec.decode(codec.encode(exact), 3)[0, 0] == 63.5


def test_the_farthest_number_of_int4_is_the_lowest_code() -> None:
    codec = VALUE_CODECS["int4"]
    for row, scale, codes in (
        ([8.0, -7.0, 0.0], -1.0, [-8, 7, 0]),
        ([-8.0, 7.0, 8.0], -1.0, [7, -7, -8]),  # of two as far the positive one
        ([-4.0, 3.5, 4.0 - 2**-6], 0.5, [-8, 7, 7]),
    ):
        found = codec.encode(torch.tensor([row]))
        assert found[1].item() == scale
        assert codes_of(codec, tuple(found), 3) == [codes]


@coded
def test_halves_go_to_the_even_code(codec: Codec) -> None:
    low, high = LIMITS[codec.name]
    x = torch.tensor([[low if codec.name == "int4" else high, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5]])
    assert codec.decode(codec.encode(x), 7)[0, 1:].tolist() == [0, 2, 2, 0, -2, -2]


@coded
def test_zeros_and_what_underflows_have_no_scale(codec: Codec) -> None:
    for value in (0.0, -0.0, 2.0**-149):
        codes, scales = codec.encode(torch.full((2, 5), value))
        assert not scales.any()
        assert set(codes.flatten().tolist()) == ({0} if codec.name == "int8" else {0x88})


def test_the_bytes_of_int4() -> None:
    codes, scales = VALUE_CODECS["int4"].encode(torch.tensor([[7.0, -8.0, 1.0, 0.0, -3.0]]))
    assert codes.tolist() == [[0x0F, 0x89, 0x85]]
    assert scales.tolist() == [[1.0]]


def test_int4_has_a_scale_for_each_group_of_32() -> None:
    x = torch.cat([torch.full((32,), -8.0), torch.full((32,), -0.5), torch.tensor([80.0])])
    codes, scales = VALUE_CODECS["int4"].encode(x[None])
    assert (codes.shape, scales.shape) == ((1, 33), (1, 3))
    assert scales.tolist() == [[1.0, 0.0625, -10.0]]
    assert set(codes.flatten().tolist()) == {0x00, 0x80}


@every_codec
def test_rows_are_coded_alone(codec: Codec) -> None:
    x = torch.randn(2, 3, 4, 37)
    together = codec.encode(x)
    for index in np.ndindex(2, 3, 4):
        for part, alone in zip(together, codec.encode(x[index][None]), strict=True):
            assert torch.equal(part[index], alone[0])


@every_codec
def test_zero_bytes_decode_to_zero(codec: Codec) -> None:
    empty = [torch.zeros(2, p.width, dtype=p.dtype) for p in codec.parts(37)]
    assert not codec.decode(empty, 37).any()


@coded
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_what_is_not_finite_comes_back_as_nan(codec: Codec, value: float) -> None:
    x = torch.randn(3, 70, dtype=torch.float64)
    x[1, 40] = value
    codes, scales = codec.encode(x)
    decoded = codec.decode((codes, scales), 70)
    lost = slice(0, 70) if codec.name == "int8" else slice(32, 64)
    assert decoded[1, lost].isnan().all()
    assert torch.equal(codec.decode(codec.encode(x[[0, 2]]), 70), decoded[[0, 2]])
    assert decoded[1].isnan().sum() == decoded[1, lost].numel()
    unsigned = torch.tensor([0x7FFFFFFF, 0x7F800001, -1], dtype=torch.int32).view(torch.float32)
    assert codec.decode(codec.encode(unsigned[:, None]), 1).isnan().all()


@coded
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_coded_as_fp32(codec: Codec, dtype: torch.dtype) -> None:
    x = torch.randn(4, 37).to(dtype)
    for found, expected in zip(codec.encode(x), codec.encode(x.float()), strict=True):
        assert torch.equal(found, expected)


def hadamard(size: int) -> Tensor:
    """Sylvester's construction, orthonormal, in float64."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    return matrix / math.sqrt(size)


@pytest.mark.parametrize("width", [1, 2, 3, 8, 37, 64, 80, 96, 128, 511, 512])
def test_heads_are_turned_by_blocks_of_hadamard(width: int) -> None:
    sizes = [1 << bit for bit in reversed(range(10)) if width >> bit & 1]
    matrix = torch.block_diag(*map(hadamard, sizes))
    torch.testing.assert_close(matrix @ matrix, torch.eye(width, dtype=torch.float64))
    x = torch.randn(5, 3, width)
    found = rotate_heads(x)
    exact = x.double() @ matrix
    sizes_of = x.double().norm(dim=-1, keepdim=True)
    assert ((found.double() - exact).abs() <= 2.0**-22 * math.log2(width + 1) * sizes_of).all()
    torch.testing.assert_close(rotate_heads(found), x, rtol=0, atol=1e-5)


@settings(max_examples=40)
@some_width
def test_int4_keys_are_codes_of_turned_heads(width: int, exponent: int, seed: int) -> None:
    x = rows_of(width, exponent, seed)
    buffers = ROTATED.encode(x)
    for found, expected in zip(buffers, VALUE_CODECS["int4"].encode(rotate_heads(x)), strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(ROTATED.decode(buffers, width), rounded(x, "int4", are_keys=True))
    assert torch.equal(ROTATED.read(buffers, width), VALUE_CODECS["int4"].decode(buffers, width))


def test_turned_keys_lose_less_to_a_large_element() -> None:
    x = torch.randn(500, 64)
    x[:, 5] += 20
    errors = [
        (codec.decode(codec.encode(x), 64) - x).square().mean()
        for codec in (ROTATED, VALUE_CODECS["int4"])
    ]
    assert errors[0] < 0.5 * errors[1]


def test_scores_of_turned_queries_and_keys_are_the_same() -> None:
    q, k = torch.randn(7, 80, dtype=torch.float64), torch.randn(9, 80, dtype=torch.float64)
    torch.testing.assert_close(rotate_heads(q) @ rotate_heads(k).T, q @ k.T)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_a_turned_block_that_is_not_finite_comes_back_as_nan(value: float) -> None:
    x = torch.randn(3, 70, dtype=torch.float64)
    x[1, 40] = value
    decoded = ROTATED.decode(ROTATED.encode(x), 70)
    assert decoded[1, :64].isnan().all()
    assert decoded[1, 64:].isfinite().all()
    assert decoded[[0, 2]].isfinite().all()


def test_bytes_at_a_head_size_of_64() -> None:
    half = KV_CODECS["bfloat16"].num_bytes(64)
    assert KV_CODECS["int8"].num_bytes(64) <= 0.53 * half
    assert KV_CODECS["int4"].num_bytes(64) <= 0.30 * half
    for name in ("float32", "bfloat16", "float16", "int8", "k8v4", "int4"):
        for width in (1, 31, 32, 33, 64, 80, 128):
            assert KV_CODECS[name].num_bytes(width) == pair_bytes(name, width)
    for codec in VALUE_CODECS.values():
        if codec.name != "float64":
            assert codec.num_bytes(65) == head_bytes(codec.name, 65)


def test_codecs_are_found_by_name_pair_or_dtype() -> None:
    for name, codec in KV_CODECS.items():
        assert find_kv_codec(name) is codec
        assert find_kv_codec(codec.pair) is codec
        assert codec.name == name
    assert KV_CODECS["k8v4"].pair == ("int8", "int4")
    assert (KV_CODECS["int4"].keys, KV_CODECS["int4"].values) == (ROTATED, VALUE_CODECS["int4"])
    other = find_kv_codec(("int4", "bfloat16"))
    assert (other.name, other.keys, other.dtype) == ("int4+bfloat16", ROTATED, torch.float32)
    assert find_kv_codec(torch.bfloat16).name == "bfloat16"
    assert find_kv_codec(torch.float32).name == "float32"
    wrong = ("int2", torch.int8, torch.float8_e4m3fn, None, 4, ("k8v4", "int8"), ("int8",), ("", 4))
    for which in wrong:
        with pytest.raises(
            OptionError, match=r"cannot be stored as .*there are .*int8, k8v4, int4"
        ):
            find_kv_codec(which)  # type: ignore[arg-type]
