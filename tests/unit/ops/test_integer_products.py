"""The specification of products of int8 activations."""

import pytest
import torch

from kept.errors import OptionError
from kept.ops.integer_products import (
    ACTIVATION_GROUP,
    dequantize_rows,
    linear_int8,
    quantize_rows,
)
from kept.ops.quantize import QUANTIZED_FORMATS, dequantize, quantize


def test_a_number_moves_by_half_a_step_at_most() -> None:
    x = torch.randn(9, 200) * torch.logspace(-8, 8, 9)[:, None]
    rows = quantize_rows(x)
    assert rows.codes.shape == x.shape
    assert rows.scales.shape == (9, -(-200 // ACTIVATION_GROUP))
    step = rows.scales.repeat_interleave(ACTIVATION_GROUP, 1)[:, :200]
    assert ((dequantize_rows(rows) - x).abs() <= 0.5001 * step).all()
    assert rows.codes.abs().max() == 127


@pytest.mark.parametrize("format", QUANTIZED_FORMATS)
def test_products_are_those_of_the_rounded_numbers(format: str) -> None:
    x, bias = torch.randn(7, 150), torch.randn(40)
    rows, matrix = quantize_rows(x), quantize(torch.randn(40, 150), format)
    exact = dequantize_rows(rows).double() @ dequantize(matrix).double().T + bias.double()
    assert torch.allclose(linear_int8(rows, matrix, bias).double(), exact, atol=1e-4)
    with pytest.raises(OptionError, match="150 activations do not fit a matrix of 149"):
        linear_int8(rows, quantize(torch.randn(4, 149), format))
