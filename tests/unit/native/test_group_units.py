"""Rows in units of their groups (native/group_units.h), at both ends of bf16 and very wide: right,
and the same bits on every set of x86, by whole numbers and on tiles."""

import pytest
import torch
from torch import Tensor

from kept import machine
from kept.ops import Adapters, LowRank, PackedMatrix, pack_matrix, trace
from kept.ops.packed import pack_grouped

from .driving import Rig
from .test_linear import WHOLE, check, product

if not machine.NATIVE_AVAILABLE:
    pytest.skip("installed without a C++ compiler", allow_module_level=True)
from kept import _native

NAMES = [name for name in WHOLE if name in _native.isa_names()] + _native.emulated_isa_names()
if len(NAMES) < 2:
    pytest.skip("needs another instruction set than the emulated one", allow_module_level=True)
formats = pytest.mark.parametrize("format", ["int4", "mxfp4", "q4_0"])
BOTH = (5, 19)  # rows by whole numbers, and on tiles


def stored(x: Tensor, w: PackedMatrix, threads: int = 1) -> Tensor:
    """x (N, K) rounded to bf16, not multiplied by anything, times the matrix: (N, outputs) fp32."""
    rig = Rig()
    out = rig.linear(rig.round(rig.embed(pack_matrix(x, "fp32"))), w)
    return rig.run(len(x), threads=threads)[0].rows(out, len(x))


def enlarged(x: Tensor, w: PackedMatrix) -> Tensor:
    """The same rounded to bf16, as an adapter of the next layer multiplies it by 2^100."""
    rig = Rig()
    out = rig.linear(rig.round(rig.embed(pack_matrix(x, "fp32"))), w, "activate")
    one = torch.eye(out.width)
    adapters = Adapters(((LowRank(0, out.width, 2.0**100 * one, one, 1.0),),))
    nothing = pack_matrix(torch.zeros_like(one), "bf16")
    made = trace.linear(trace.Rows(rig.traced, out), nothing, None, adapters)
    return rig.run(len(x), adapters=(0,))[0].rows(made.buffer, len(x))


def everywhere(monkeypatch: pytest.MonkeyPatch, x: Tensor, w: PackedMatrix) -> Tensor:
    """What all sets make of all rows, and of the first five alone."""
    found = []
    for name in NAMES:
        monkeypatch.setenv("KEPT_ISA", name)
        found += [stored(x[:count], w) for count in BOTH]
    for other in found:  # as bits: -0 is not 0
        assert torch.equal(other.view(torch.int32), found[-1][: len(other)].view(torch.int32))
    return found[-1]


def some(format: str, outputs: int, width: int, scale: float = 1.0) -> PackedMatrix:
    codes = torch.randint(0, 16, (outputs, width), dtype=torch.uint8)
    dtype = torch.float16 if format == "q4_0" else torch.bfloat16
    scales = torch.full((outputs, -(-width // 32)), scale, dtype=dtype)
    return pack_grouped(format, codes, scales)


@formats
def test_the_largest_numbers_and_those_beyond(monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    signs = torch.randint(0, 2, (19, 70)) * 2.0 - 1
    w = some(format, 33, 70, 2.0**-5)
    x = signs * 255 * 2.0**108  # the largest below 2^116
    found = everywhere(monkeypatch, x, w)
    assert found.isfinite().all()
    check(found, *product(x, w, None))
    x[2, 3] = x[17, 69] = 2.0**116
    beyond = everywhere(monkeypatch, x, w)
    assert beyond[[2, 17]].isnan().all()
    others = [i for i in range(19) if i not in (2, 17)]
    assert torch.equal(beyond[others], found[others])


@formats
def test_the_smallest_numbers_and_zeros(monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    """No unit is below 2^-125, which leaves nothing of what is subnormal."""
    x = torch.ldexp(torch.randn(19, 70), torch.randint(-133, -112, (19, 70))).bfloat16().float()
    x[1] = torch.randint(-127, 128, (70,)) * 2.0**-133
    x[18], x[3, :32] = -0.0, 0.0
    w = some(format, 33, 70)
    found = everywhere(monkeypatch, x, w)
    rounded = (x.double() * 2.0**125).round() * 2.0**-125
    check(found, *product(rounded.float(), w, None))
    assert torch.equal(found[[1, 18]].view(torch.int32), torch.zeros(2, 33, dtype=torch.int32))


@formats
def test_subnormal_outputs_in_bf16(monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    """What a set makes of them does not depend on how many rows there are."""
    x = torch.ldexp(torch.randn(19, 40), torch.randint(-112, -106, (19, 40)))
    w = some(format, 33, 40, 2.0**-22)
    for name in NAMES:
        monkeypatch.setenv("KEPT_ISA", name)
        few, many = (enlarged(x[:count], w) for count in BOTH)
        assert torch.equal(few, many[:5])


def test_rows_too_wide_for_the_words_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Around 16,384 inputs, from where on sums lie elsewhere."""
    for width in (16352, 16385):
        x, w = torch.randn(19, width).bfloat16().float(), some("int4", 3, width)
        check(everywhere(monkeypatch, x, w), *product(x, w, None))
