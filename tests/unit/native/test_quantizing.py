"""The kernels' codes and scales are those of the specification in torch, bit for bit."""

import importlib

import pytest
import torch
from torch import Tensor

from kept.errors import WeightsError
from kept.ops import use_threads
from kept.ops.quantize import QUANTIZED_FORMATS, QuantizedMatrix, quantize

formats = pytest.mark.parametrize("format", QUANTIZED_FORMATS)


def assert_same(weight: Tensor, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[QuantizedMatrix] = []
    for choice in ("native", "reference"):
        monkeypatch.setenv("KEPT_OPS", choice)
        found.append(quantize(weight, format))
    native, reference = found
    assert native.codes.dtype == reference.codes.dtype
    assert torch.equal(native.codes, reference.codes)
    assert torch.equal(native.scales.view(torch.uint8), reference.scales.view(torch.uint8))


@formats
@pytest.mark.parametrize("shape", [(1, 1), (2, 31), (70, 45), (33, 97), (64, 512), (3, 1055)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_every_kind(
    shape: tuple[int, int],
    dtype: torch.dtype,
    format: str,
    isa: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for power in (0, 1, 5):  # powers of normal numbers: signs alone, normal, heavy-tailed
        normal = torch.randn(shape)
        weight = (normal.sign() * normal.abs() ** power).to(dtype)
        weight[0] = 0
        assert_same(weight, format, monkeypatch)


@formats
def test_sizes_from_subnormal_to_huge(
    format: str, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exponents = torch.arange(-148, 116)[:, None]
    assert_same(torch.ldexp(torch.randn(264, 96), exponents), format, monkeypatch)
    bits = torch.randint(-(2**31), 2**31 - 1, (200, 320), dtype=torch.int32).view(torch.float32)
    assert_same(bits.nan_to_num(0).clamp(-1e36, 1e36), format, monkeypatch)


@formats
@pytest.mark.parametrize("count", [1, 2, 3])
def test_threads_and_strides_change_nothing(
    format: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEPT_NUM_THREADS", str(count))
    assert_same(torch.randn(45, 70).T, format, monkeypatch)
    assert_same(torch.randn(2, 70), format, monkeypatch)
    assert use_threads() == count


@formats
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_first_that_is_not_finite_is_named(
    format: str, value: float, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEPT_OPS", "native")
    weight = torch.randn(40, 33)
    weight[[7, 31], [32, 0]] = value
    with pytest.raises(WeightsError, match=rf"row 7, column 32 is {value}"):
        quantize(weight, format)


@formats
def test_progress_counts_every_number(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("kept.ops.quantize"), "_PIECE", 100)
    seen: list[int] = []
    quantize(torch.randn(7, 30), format, seen.append)
    assert seen == [90, 180, 210]
