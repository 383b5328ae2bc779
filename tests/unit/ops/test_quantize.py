"""Laws of weight quantization: how far a number may move, and what must not move at all."""

import importlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kept.errors import OptionError, WeightsError
from kept.ops.quantize import (
    INT4_GROUP,
    INT4_LEVELS,
    INT4_ZERO,
    QUANTIZED_FORMATS,
    dequantize,
    quantize,
)

LEVELS = torch.tensor(INT4_LEVELS, dtype=torch.float32)
formats = st.sampled_from(QUANTIZED_FORMATS)


@st.composite
def matrices(draw: st.DrawFn) -> Tensor:
    """A matrix of any small shape, its rows of very different sizes, some of them heavy-tailed."""
    num_out, num_in = draw(st.integers(1, 9)), draw(st.integers(1, 100))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    weight = torch.randn(num_out, num_in, generator=generator)
    weight = weight.sign() * weight.abs() ** draw(st.sampled_from([0.0, 1.0, 4.0]))
    exponents = torch.randint(-40, 20, (num_out, 1), generator=generator)
    weight = torch.ldexp(weight, exponents)
    if draw(st.booleans()):
        weight[draw(st.integers(0, num_out - 1))] = 0
    return weight


def grouped(weight: Tensor) -> Tensor:  # (out, in) -> (out, P, 32), zeros where the last is short
    padded = torch.nn.functional.pad(weight, (0, -weight.shape[1] % INT4_GROUP))
    return padded.unflatten(1, (-1, INT4_GROUP))


def test_the_levels_are_exact_in_bf16_and_hold_zero() -> None:
    assert list(INT4_LEVELS) == sorted(set(INT4_LEVELS))
    assert len(INT4_LEVELS) == 16
    assert torch.equal(LEVELS.bfloat16().float(), LEVELS)
    assert INT4_LEVELS[INT4_ZERO] == 0


@given(matrices())
def test_int8_moves_no_number_by_more_than_half_a_step(weight: Tensor) -> None:
    found = quantize(weight, "int8")
    assert found.codes.dtype == torch.int8
    assert found.codes.shape == weight.shape
    assert int(found.codes.min()) >= -127
    assert found.scales.dtype == torch.float32
    assert torch.equal(found.scales, weight.abs().amax(1) / 127)
    moved = (dequantize(found) - weight).abs()
    assert (moved <= found.scales[:, None] * 0.50001).all()


@given(matrices())
def test_int4_takes_the_nearest_level_of_each_scale(weight: Tensor) -> None:
    found = quantize(weight, "int4")
    assert found.codes.dtype == torch.uint8
    assert found.codes.shape == weight.shape
    assert int(found.codes.max()) < 16
    assert found.scales.dtype == torch.bfloat16
    assert found.scales.shape == (len(weight), -(-weight.shape[1] // INT4_GROUP))
    scales = found.scales.double().repeat_interleave(INT4_GROUP, 1)[:, : weight.shape[1], None]
    moved = (scales * LEVELS.double() - weight[..., None].double()).abs()  # by each of 16 levels
    taken = moved.gather(-1, found.codes[..., None].long())
    assert (taken <= moved.amin(-1, keepdim=True) + 1e-6 * scales.abs()).all()


@given(matrices())
def test_int4_is_no_worse_than_steps_that_reach_the_largest_element(weight: Tensor) -> None:
    """With the largest element on the lowest level and the widest gap of 31, nothing else is cut
    off but what lies beyond the highest level on the other side."""
    error = grouped(dequantize(quantize(weight, "int4")) - weight).double().square().sum(-1)
    groups = grouped(weight).double()
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    scales = (largest / INT4_LEVELS[0]).bfloat16().double()
    plain = (scales[..., None] * LEVELS.double() - groups[..., None]).abs().amin(-1)
    assert (error <= plain.square().sum(-1) * 1.0001).all()
    assert (plain <= scales.abs() * 17.5).all()  # from 127 down to 110, and bf16's rounding


@given(matrices(), formats)
def test_zeros_stay_zero(weight: Tensor, format: str) -> None:
    weight[weight.abs() < weight.abs().amax(1, keepdim=True) / 4] = 0
    assert (dequantize(quantize(weight, format))[weight == 0] == 0).all()
    nothing = quantize(torch.zeros_like(weight), format)
    assert not nothing.scales.any()
    assert (nothing.codes == (INT4_ZERO if format == "int4" else 0)).all()


@given(matrices(), formats, st.integers(-30, 30))
def test_a_power_of_two_scales_the_scales_and_nothing_else(
    weight: Tensor, format: str, exponent: int
) -> None:
    one, other = quantize(weight, format), quantize(weight * 2.0**exponent, format)
    assert torch.equal(one.codes, other.codes)
    assert torch.equal(one.scales * 2.0**exponent, other.scales)


@given(st.integers(1, 5), st.integers(1, 100), st.integers(0, 2**31))
def test_int8_gives_back_what_it_can_represent(num_out: int, num_in: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-127, 128, (num_out, num_in), generator=generator)
    codes[:, seed % num_in] = 127
    # Scales of few bits, as only for those a product divided by 127 is certain to be the scale.
    scales = torch.randn(num_out, generator=generator).abs().bfloat16().float()
    found = quantize(codes * scales[:, None], "int8")
    assert torch.equal(found.codes.long(), codes)
    assert torch.equal(found.scales, scales)


@given(st.integers(1, 5), st.integers(1, 100), st.integers(0, 2**31))
def test_int4_gives_back_what_it_can_represent(num_out: int, num_in: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 16, (num_out, num_in), generator=generator)
    codes[:, ::INT4_GROUP] = 0  # a group that reaches its lowest level says what its scale is
    shape = (num_out, -(-num_in // INT4_GROUP))
    scales = torch.randn(shape, generator=generator).bfloat16()
    weight = LEVELS[codes] * scales.float().repeat_interleave(INT4_GROUP, 1)[:, :num_in]
    found = quantize(weight, "int4")
    assert torch.equal(dequantize(found), weight)


@given(matrices(), formats)
def test_the_same_weights_give_the_same_bits(weight: Tensor, format: str) -> None:
    one, other = quantize(weight, format), quantize(weight.clone(), format)
    assert torch.equal(one.codes, other.codes)
    assert torch.equal(one.scales.view(torch.uint8), other.scales.view(torch.uint8))


@pytest.mark.parametrize("format", QUANTIZED_FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_rows_do_not_depend_on_each_other_nor_on_the_pieces(
    format: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = torch.randn(70, 45).to(dtype)
    whole = quantize(weight, format)
    expected = dequantize(whole)
    monkeypatch.setattr(importlib.import_module("kept.ops.quantize"), "_PIECE", 100)
    parts = quantize(weight.T.contiguous().T, format)
    for found in (parts, quantize(weight.requires_grad_(), format)):
        assert torch.equal(found.codes, whole.codes)
        assert torch.equal(found.scales, whole.scales)
        assert torch.equal(dequantize(found), expected)


@pytest.mark.parametrize("format", QUANTIZED_FORMATS)
@pytest.mark.parametrize("ops", ["reference", "auto"])
def test_a_matrix_that_lies_the_other_way(
    format: str, ops: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As experts do that are stored (in, out)."""
    monkeypatch.setenv("KEPT_OPS", ops)
    weight = torch.randn(64, 9, generator=torch.Generator().manual_seed(3)).T
    found, wanted = quantize(weight, format), quantize(weight.contiguous(), format)
    assert torch.equal(found.codes, wanted.codes)
    assert torch.equal(found.scales, wanted.scales)


def test_the_search_is_worth_its_while() -> None:
    """Normal weights: the relative squared error is what it was when the levels were chosen."""
    weight = torch.randn(64, 2048)
    error = (dequantize(quantize(weight, "int4")) - weight).square().mean()
    assert 0.0055 < float(error) < 0.0059


@pytest.mark.parametrize("format", QUANTIZED_FORMATS)
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_what_is_not_finite_is_named(format: str, value: float) -> None:
    weight = torch.randn(300, 7)
    weight[211, 5] = value
    with pytest.raises(WeightsError, match=rf"row 211, column 5 is {value}.*{format}.*repair"):
        quantize(weight, format)


@pytest.mark.parametrize(
    "weight", [torch.zeros(4), torch.zeros(2, 2, 2), torch.zeros(0, 3), torch.zeros(2, 2).int()]
)
def test_what_is_no_matrix_of_floats_is_refused(weight: Tensor) -> None:
    with pytest.raises(OptionError, match=r"cannot be quantized; give a matrix"):
        quantize(weight, "int4")


def test_an_unknown_format() -> None:
    with pytest.raises(OptionError, match="'int3' is not one of int8, int4"):
        quantize(torch.zeros(2, 2), "int3")
