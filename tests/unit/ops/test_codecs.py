"""Codecs against their definition in numpy's float64, byte by byte."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws.rounding import bfloat16_from_above, head_bytes, rounded
from torch import Tensor

from kept.errors import OptionError
from kept.ops import CODECS, Codec, find_codec

LIMITS = {"int8": 127, "int4": 7}
coded = pytest.mark.parametrize("codec", [CODECS[name] for name in LIMITS], ids=LIMITS)
every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
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
    for row, row_codes, scales, out in zip(x, codes, buffers[1].tolist(), decoded, strict=True):
        for i, scale in enumerate(scales):
            part = slice(i * group, (i + 1) * group)
            exact = row[part].numpy().astype(np.float64)
            amax = np.float32(np.abs(exact).max())
            assert scale == bfloat16_from_above(float(amax / np.float32(limit)))
            assert all(-limit <= code <= limit for code in row_codes[part])
            assert out[part].tolist() == [code * scale for code in row_codes[part]]
            if scale:
                errors = np.abs(exact - out[part].numpy().astype(np.float64))
                assert errors.max() <= 0.5 * scale * (1 + 2**-20)
            else:
                assert not any(row_codes[part])
    assert torch.equal(decoded, rounded(x, codec.name))


@coded
def test_scales_are_rounded_up_and_reach_the_limit(codec: Codec) -> None:
    limit = LIMITS[codec.name]
    for numerator in range(1, 2000):
        x = torch.full((1, 3), numerator / 1000)
        scale = codec.encode(x)[1].item()
        assert scale * limit >= x.max().item() * (1 - 2**-23)
        assert scale * limit < x.max().item() * (1 + 2**-7)
    exact = torch.tensor([[limit * 0.5, -1.25, 0.0]])
    assert codec.encode(exact)[1].item() == 0.5
    assert codec.decode(codec.encode(exact), 3)[0, 0] == limit * 0.5


@coded
def test_halves_go_to_the_even_code(codec: Codec) -> None:
    x = torch.tensor([[LIMITS[codec.name], 0.5, 1.5, 2.5, -0.5, -1.5, -2.5]])
    assert codec.decode(codec.encode(x), 7)[0, 1:].tolist() == [0, 2, 2, 0, -2, -2]


@coded
def test_zeros_and_what_underflows_have_no_scale(codec: Codec) -> None:
    for value in (0.0, -0.0, 2.0**-149):
        codes, scales = codec.encode(torch.full((2, 5), value))
        assert not scales.any()
        assert set(codes.flatten().tolist()) == ({0} if codec.name == "int8" else {0x88})


def test_the_bytes_of_int4() -> None:
    codes, scales = CODECS["int4"].encode(torch.tensor([[7.0, -7.0, 1.0, 0.0, -3.0]]))
    assert codes.tolist() == [[0x1F, 0x89, 0x85]]
    assert scales.tolist() == [[1.0]]


def test_int4_has_a_scale_for_each_group_of_32() -> None:
    x = torch.cat([torch.full((32,), 7.0), torch.full((32,), 0.7), torch.tensor([70.0])])
    codes, scales = CODECS["int4"].encode(x[None])
    assert (codes.shape, scales.shape) == ((1, 33), (1, 3))
    assert scales.tolist()[0][::2] == [1.0, 10.0]
    assert set(codes.flatten().tolist()) == {0xFF, 0x8F}


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


def test_bytes_at_a_head_size_of_64() -> None:
    half = CODECS["bfloat16"].num_bytes(64)
    assert CODECS["int8"].num_bytes(64) <= 0.53 * half
    assert CODECS["int4"].num_bytes(64) <= 0.30 * half
    for name in ("float32", "bfloat16", "float16", "int8", "int4"):
        for width in (1, 31, 32, 33, 64, 80, 128):
            assert CODECS[name].num_bytes(width) == head_bytes(name, width)


def test_codecs_are_found_by_name_or_dtype() -> None:
    for name, codec in CODECS.items():
        assert find_codec(name) is codec
        assert codec.name == name
    assert find_codec(torch.bfloat16).name == "bfloat16"
    assert find_codec(torch.float32).name == "float32"
    for wrong in ("int2", torch.int8, torch.float8_e4m3fn, None, 4):
        with pytest.raises(OptionError, match=r"cannot be stored as .*there are .*int8, int4"):
            find_codec(wrong)  # type: ignore[arg-type]
