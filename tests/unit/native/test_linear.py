"""Matrix products and what becomes of them, against float64 on the same rounded numbers.

With u = EPS / 2 a chain of K fused steps errs by at most K u sum|a b|, and by about sqrt(K) u
sum|a b| where roundings are as often up as down. The bound is twice that, since some instruction
sets round a product and its sum one by one:

    |y - exact| <= sqrt(K) EPS sum|a b| + EPS (|exact| + |bias|)

Where weights of 4 bits meet whole numbers in place of bf16, each input of a group of 32 is rounded
by at most half of the group's unit besides.
"""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kept.ops import PackedMatrix, Program
from kept.ops.backend import isa as chosen_isa
from kept.ops.packed import pack_int4
from kept.ops.quantize import BLOCK_FORMATS

from .driving import EPS, FORMATS, Rig, pack_as

formats = pytest.mark.parametrize("format", FORMATS)
all_formats = pytest.mark.parametrize("format", [*FORMATS, *BLOCK_FORMATS])
# Rows, inputs, outputs. 512 is where many rows change to the next slice of inputs.
SIZES = (
    (1, 1, 1), (1, 31, 33), (2, 33, 31), (3, 32, 64), (4, 64, 1), (5, 1, 40), (7, 100, 97),
    (11, 40, 70), (12, 65, 32), (13, 33, 33), (24, 544, 5), (25, 31, 48), (26, 1030, 34),
    (37, 513, 17), (100, 97, 66), (300, 48, 35),
)  # fmt: skip
# Where weights of 4 bits are multiplied as whole numbers, or as floats that hold these exactly.
WHOLE = ("amx", "amx_emulated", "avx512bf16", "avx512vnni", "avx512", "avx2vnni", "avx2")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


def inputs(format: str, *shape: int) -> Tensor:
    """Rows as a kernel for this format reads them."""
    x = torch.randn(shape)
    return x if format == "fp32" else x.bfloat16().float()


def product(x: Tensor, w: PackedMatrix, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """x w^T + b in float64, and how far a kernel may be from it."""
    wide, weight = x.double(), w.unpack().double()
    exact, sizes = wide @ weight.T, wide.abs() @ weight.abs().T
    added = torch.zeros(()) if bias is None else bias.double()
    exact = exact + added
    error = EPS * (math.sqrt(x.shape[1]) * sizes + exact.abs() + added.abs())
    if chosen_isa() in WHOLE and w.format in ("int4", "mxfp4", "q4_0"):
        error = error + unit_error(wide, w.format) @ weight.abs().T
    return exact, error


def unit_error(x: Tensor, format: str) -> Tensor:
    """How far each of x (N, K) may be from a multiple of its group's unit: half of that. A multiple
    itself is exact. A unit is 2^-14 of the power of 2 below the largest number, or of int4 the
    least one more of which a group comes to less than 2^17."""
    padded = F.pad(x, (0, -x.shape[1] % 32)).unflatten(1, (-1, 32))
    largest = padded.abs().amax(2, keepdim=True)
    unit = torch.exp2(torch.frexp(largest).exponent.double() - 15)
    if format == "int4":
        total = (padded / unit).abs().round().sum(2, keepdim=True)
        unit = unit * torch.exp2((torch.frexp(total).exponent - 17).clamp(min=0))
    wrong = (padded / unit).round() * unit != padded
    return (wrong * unit / 2).flatten(1)[:, : x.shape[1]]


def activated(kind: str, x: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """No activation is steeper than 1.13; each is worked out to 8 roundings of its argument."""
    exact = ACTIVATIONS[kind](x)
    return exact, 1.13 * error + 4 * EPS * x.abs()


def check(found: Tensor, exact: Tensor, error: Tensor) -> None:
    assert found.shape == exact.shape
    worst = ((found.double() - exact).abs() / (error + 1e-37)).max()
    assert worst <= 1, f"{worst} times the bound"


@all_formats
@pytest.mark.parametrize("biased", [False, True], ids=["", "bias"])
def test_store_and_add(isa: str, format: str, biased: bool) -> None:
    for rows, width, outputs in SIZES:
        x, before = inputs(format, rows, width), torch.randn(rows, outputs)
        bias = torch.randn(outputs) if biased else None
        w = pack_as(format, torch.randn(outputs, width), bias=bias)
        rig = Rig()
        a, residual = rig.rows(x, bf16=format != "fp32"), rig.rows(before)
        stored = rig.linear(a, w)
        rig.linear(a, w, "add", out=residual)
        program, _ = rig.run(rows)
        exact, error = product(x, w, bias)
        check(program.rows(stored, rows), exact, error)
        total = exact + before.double()
        check(program.rows(residual, rows), total, error + EPS * total.abs())


@formats
def test_a_product_is_scaled_before_anything_becomes_of_it(isa: str, format: str) -> None:
    for rows, width, outputs in SIZES[:4]:
        x, bias = inputs(format, rows, width), torch.randn(outputs)
        w = pack_as(format, torch.randn(outputs, width), bias=bias)
        rig = Rig()
        a = rig.rows(x, bf16=format != "fp32")
        plain, scaled = rig.linear(a, w), rig.linear(a, w, scale=0.3)
        summed = rig.linear(a, w, "add", out=rig.rows(torch.ones(rows, outputs)), scale=0.3)
        rig.linear(a, w, "logits", softcap=2.0, scale=0.3)
        program, logits = rig.run(rows)
        expected = program.rows(plain, rows) * torch.tensor(0.3)
        assert torch.equal(program.rows(scaled, rows), expected)
        assert torch.equal(program.rows(summed, rows), 1 + expected)
        torch.testing.assert_close(logits, 2 * torch.tanh(expected / 2), rtol=1e-5, atol=1e-5)


@formats
def test_activate_and_gate(isa: str, format: str) -> None:
    for (rows, width, outputs), kind in zip(SIZES, 4 * list(ACTIVATIONS), strict=False):
        x, bias = inputs(format, rows, width), torch.randn(2 * outputs)
        weight = 3 * torch.randn(2 * outputs, width) / math.sqrt(width)
        plain, gates = pack_as(format, weight, bias=bias), pack_as(format, weight, gated=True)
        rig = Rig()
        a = rig.rows(x, bf16=format != "fp32")
        active = rig.linear(a, plain, "activate", kind)
        gated = rig.linear(a, gates, "gate", kind)
        program, _ = rig.run(rows)
        exact, error = activated(kind, *product(x, plain, bias))
        check(program.rows(active, rows), exact, error)
        exact, error = product(x, gates, None)
        up, up_error = exact[:, outputs:], error[:, outputs:]
        gate, gate_error = activated(kind, exact[:, :outputs], error[:, :outputs])
        error = gate_error * up.abs() + gate.abs() * up_error + gate_error * up_error
        check(program.rows(gated, rows), gate * up, error + EPS * (gate * up).abs())


def test_what_feeds_the_next_layer_is_rounded_once(isa: str) -> None:
    """The same rows, written for a layer of bf16 weights and as they are."""
    x, bias = inputs("bf16", 5, 70), torch.randn(66)
    weight = torch.randn(66, 70)
    for epilogue, gated in (("activate", False), ("gate", True)):
        w = pack_as("bf16", weight, gated=gated, bias=bias)
        rig = Rig()
        a = rig.rows(x, bf16=True)
        wide = rig.linear(a, w, epilogue, "silu")
        narrow = rig.linear(a, w, epilogue, "silu")
        back = rig.linear(narrow, pack_as("bf16", torch.eye(narrow.width)))
        program, _ = rig.run(5)
        expected = program.rows(wide, 5).bfloat16().float()
        assert torch.equal(program.rows(back, 5), expected)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations_far_out(isa: str, kind: str) -> None:
    """From where they underflow to where they are straight, infinities and NaN."""
    x = torch.cat((torch.linspace(-200, 200, 4001), torch.linspace(-1, 1, 95)))[:, None]
    x = torch.cat((x, torch.tensor([[0.0], [1e-40], [-1e-30], [3e4], [-3e4]])))
    rig = Rig()
    a = rig.rows(x)
    out = rig.linear(a, pack_as("fp32", torch.ones(1, 1)), "activate", kind)
    program, _ = rig.run(len(x))
    found = program.rows(out, len(x))
    exact, error = activated(kind, x.double(), torch.zeros(()))
    check(found, exact, error)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_what_is_not_finite_stays_so(isa: str, kind: str) -> None:
    bias = torch.tensor([torch.nan, torch.inf, -torch.inf, 1.0]).repeat(9)
    rig = Rig()
    a = rig.rows(torch.ones(2, 3))
    w = pack_as("fp32", torch.zeros(36, 3), bias=bias)
    active = rig.linear(a, w, "activate", kind)
    gates = pack_as("fp32", torch.zeros(72, 3), gated=True, bias=torch.cat((bias, bias)))
    gated = rig.linear(a, gates, "gate", kind)
    program, _ = rig.run(2)
    for buffer in (active, gated):
        found = program.rows(buffer, 2).unflatten(1, (9, 4))
        assert found[..., 0].isnan().all()
        assert (found[..., 1] == torch.inf).all()
        assert found[..., 3].isfinite().all()


@all_formats
def test_a_row_is_the_same_among_any_others(isa: str, format: str) -> None:
    x = inputs(format, 60, 1030)
    w = pack_as(format, torch.randn(70, 1030), bias=torch.randn(70))

    def rows(first: int, last: int) -> Tensor:
        rig = Rig()
        out = rig.linear(rig.rows(x[first:last], bf16=format != "fp32"), w)
        return rig.run(last - first)[0].rows(out, last - first)

    whole = rows(0, 60)
    for count in (1, 2, 3, 5, 7, 11, 12, 13, 17, 31, 59):
        for first in (0, 60 - count):
            assert torch.equal(rows(first, first + count), whole[first : first + count])


@formats
def test_logits_and_the_first_of_the_largest(isa: str, format: str) -> None:
    for outputs in (1, 4, 31, 97, 300):
        half = torch.randn(-(-outputs // 2), 40)
        w = pack_as(format, half.repeat(2, 1)[:outputs])  # every logit comes twice
        x = inputs(format, 30, 40)
        rig = Rig()
        rig.linear(rig.rows(x, bf16=format != "fp32"), w, "logits")
        for threads in (1, 2, 3, 5):
            program, logits = rig.run(30, threads=threads)
            check(logits, *product(x, w, None))
            expect_first_of_the_largest(program, logits)


@formats
# Rows of whole cache lines, which many go past the caches, and others.
@pytest.mark.parametrize("vocabulary", [160, 99])
def test_logits_of_many_rows(isa: str, format: str, vocabulary: int) -> None:
    x, w = inputs(format, 40, 50), pack_as(format, torch.randn(vocabulary, 50))

    def logits(rows: Tensor, threads: int) -> Tensor:
        rig = Rig()
        rig.linear(rig.rows(rows, bf16=format != "fp32"), w, "logits")
        return rig.run(len(rows), threads=threads)[1]

    whole = logits(x, 2)
    for row in range(0, 40, 13):
        assert torch.equal(logits(x[row : row + 1], 1), whole[row : row + 1])


@formats
def test_capped_logits_and_the_first_of_the_largest(isa: str, format: str) -> None:
    """Caps bend logits, and make equals of those far beyond them."""
    x, weight = inputs(format, 12, 40), torch.randn(97, 40)
    bias = torch.zeros(97)
    bias[50], bias[3], bias[90] = torch.nan, torch.inf, -torch.inf
    w = pack_as(format, weight)
    for cap in (30.0, 5.0, 0.01):
        rig = Rig()
        rig.linear(rig.rows(x, bf16=format != "fp32"), w, "logits", softcap=cap)
        program, logits = rig.run(12, threads=2)
        exact, error = product(x, w, None)
        check(logits, cap * torch.tanh(exact / cap), error + 4 * EPS * cap)
        expect_first_of_the_largest(program, logits)
    assert int((logits == logits.amax(1, keepdim=True)).sum(1).min()) > 1
    rig = Rig()
    strange = pack_as(format, weight, bias=bias)
    rig.linear(rig.rows(x, bf16=format != "fp32"), strange, "logits", softcap=5.0)
    program, logits = rig.run(12)
    assert torch.equal(logits.isnan(), bias.isnan().expand(12, -1))
    assert torch.equal(logits[:, [3, 90]], torch.tensor([5.0, -5.0]).expand(12, -1))
    expect_first_of_the_largest(program, logits)


@formats
def test_the_largest_of_strange_logits(isa: str, format: str) -> None:
    """NaN wins, and the first one; so do equal infinities."""
    weight = torch.randn(131, 40)
    nan, inf = torch.nan, torch.inf
    for strange in (
        {130: nan}, {3: nan, 2: nan, 100: nan}, {60: inf, 7: inf}, {1: nan, 0: inf},
        {0: nan, 1: inf}, {95: nan, 96: inf, 94: inf}, dict.fromkeys(range(131), -inf),
        {i: -inf for i in range(131) if i != 77},
    ):  # fmt: skip
        bias = torch.zeros(131)
        bias[list(strange)] = torch.tensor(list(strange.values()))
        rig = Rig()
        a = rig.rows(inputs(format, 3, 40), bf16=format != "fp32")
        rig.linear(a, pack_as(format, weight, bias=bias), "logits")
        for threads in (1, 2, 5):
            program, logits = rig.run(3, threads=threads)
            assert torch.equal(logits.isnan(), bias.isnan().expand(3, -1))
            expect_first_of_the_largest(program, logits)


def expect_first_of_the_largest(program: Program, logits: Tensor) -> None:
    values, first = zip(*program.best(), strict=True)
    expected = logits.amax(1)  # NaN where there is one
    assert torch.equal(torch.tensor(values).nan_to_num(), expected.nan_to_num())
    assert torch.equal(torch.tensor(values).isnan(), expected.isnan())
    hits = torch.where(expected[:, None].isnan(), logits.isnan(), logits == expected[:, None])
    assert list(first) == hits.int().argmax(1).tolist()


@formats
def test_the_largest_few_logits(isa: str, format: str) -> None:
    """Of equal ones the lower token, whoever finds them and however many rows there are."""
    for outputs in (1, 31, 97, 300, 2050):
        half = torch.randn(-(-outputs // 2), 40)
        w = pack_as(format, half.repeat(2, 1)[:outputs])  # every logit comes twice
        rig = Rig()
        rig.linear(rig.rows(inputs(format, 35, 40), bf16=format != "fp32"), w, "logits")
        for rows, threads, k in ((1, 1, 1), (1, 2, 50), (35, 3, 2), (17, 4, 7), (3, 5, 256)):
            program, logits = rig.run(rows, threads=threads, top_k=k)
            expect_largest(program, logits, min(k, outputs))
            expect_first_of_the_largest(program, logits)


@formats
def test_the_largest_few_of_strange_logits(isa: str, format: str) -> None:
    """NaN comes before any number; 0 and -0 are equal."""
    nan, inf = torch.nan, torch.inf
    weight = torch.zeros(331, 3)  # so that the bias alone decides
    for bias in (
        torch.zeros(331), -torch.zeros(331), torch.tensor([0.0, -0.0]).repeat(166)[:331],
        torch.full((331,), -inf), torch.full((331,), nan), torch.arange(331.0),
        -torch.arange(331.0), torch.tensor([1.0, -inf, inf, nan, 2.0]).repeat(67)[:331],
        torch.tensor([-inf] * 330 + [-1e38]), torch.tensor([nan] + [-inf] * 330),
        torch.randn(331).mul(1e-39), torch.randn(331).round(),
    ):  # fmt: skip
        rig = Rig()
        a = rig.rows(torch.ones(2, 3), bf16=format != "fp32")
        rig.linear(a, pack_as(format, weight, bias=bias), "logits")
        for threads, k in ((1, 3), (2, 65), (3, 331), (5, 130)):
            program, logits = rig.run(2, threads=threads, top_k=k)
            expect_largest(program, logits, k)


def expect_largest(program: Program, logits: Tensor, k: int) -> None:
    values, tokens = map(torch.from_numpy, program.top())
    assert values.shape == tokens.shape == (len(logits), k)
    # NaN is the largest to torch too, and a stable sort leaves equals in order.
    expected = logits.sort(dim=1, descending=True, stable=True).indices[:, :k]
    assert torch.equal(tokens, expected)
    assert torch.equal(values.view(torch.int32), logits.gather(1, expected).view(torch.int32))


@formats
def test_only_the_wanted_rows_reach_the_head(isa: str, format: str) -> None:
    x, weight = inputs("bf16", 7, 33), torch.ones(33)
    w = pack_as(format, torch.randn(40, 33))
    rig = Rig()
    normed = rig.norm(rig.rows(x), weight, None, 1e-6, wanted=True)
    rig.linear(normed, w, "logits", wanted=True)
    _, whole = rig.run(7)
    for wanted in ([6], [0, 3], [5, 1, 2], [], list(range(7)) * 9):
        program, logits = rig.run(7, wanted=torch.tensor(wanted, dtype=torch.int64))
        assert torch.equal(logits, whole[wanted])
        assert len(program.best()) == len(wanted)


@pytest.mark.parametrize("format", ["int4", "mxfp4", "q4_0"])
def test_whole_numbers_give_the_same_bits_everywhere(
    monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    """Weights of 4 bits and rows of bf16, on all sets that make whole numbers of them; rows of
    every size, up to what overflows if the unit were smaller."""
    from kept import _native

    names = [name for name in WHOLE if name in _native.isa_names()]
    names += _native.emulated_isa_names()
    if len(names) < 2:
        pytest.skip("needs another instruction set than the emulated one")
    for rows, width, outputs in SIZES:
        sizes = torch.randint(-40, 40, (rows, 1)) - torch.randint(0, 20, (rows, width))
        x = torch.ldexp(torch.randn(rows, width), sizes).bfloat16().float()
        x[0] = x[0].sign() * 255 * 2.0**90
        if rows > 1:  # the largest sum that is exact: 32 times the largest level
            x[1] = 255.0
        w = pack_as(format, torch.randn(outputs, width))
        found = []
        for name in names:
            monkeypatch.setenv("KEPT_ISA", name)
            rig = Rig()
            out = rig.linear(rig.rows(x, bf16=True), w)
            found.append(rig.run(rows)[0].rows(out, rows))
            check(found[-1], *product(x, w, None))
        for other in found[1:]:
            assert torch.equal(other, found[0])


def test_the_largest_sums_are_exact(isa: str) -> None:
    """A group of numbers of one size, all times the largest level: no sum is more units than a
    float holds, so tiles and whole numbers agree."""
    if isa not in WHOLE:
        pytest.skip("adds floats up in an order of its own")
    x = torch.cat((1 + torch.rand(20, 30), torch.full((20, 2), 0.0117)), 1).bfloat16().float()
    codes = torch.zeros(40, 32, dtype=torch.uint8)  # of level -127
    w = pack_int4(codes, torch.ones(40, 1).bfloat16(), gated=False, bias=None)
    rig = Rig()
    out = rig.linear(rig.rows(x, bf16=True), w)
    found = rig.run(20)[0].rows(out, 20).double()
    unit = 2.0**-11  # 2^-14, and 8 times as much as the sum is between 2^19 and 2^20 of these
    expected = ((x.double() / unit).round() * unit).sum(1, keepdim=True) * -127
    assert torch.equal(found, expected.expand(20, 40))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_not_finite_is_nan_and_no_other(isa: str, value: float) -> None:
    x = inputs("int4", 20, 130)
    x[3, 70] = x[19, 129] = value
    w = pack_as("int4", torch.randn(50, 130))
    rig = Rig()
    out = rig.linear(rig.rows(x, bf16=True), w)
    found = rig.run(20)[0].rows(out, 20)
    rest = [i for i in range(20) if i not in (3, 19)]
    check(found[rest], *product(x[rest], w, None))
    assert not found[[3, 19]].isfinite().all(1).any()
    if isa in WHOLE:  # a group has one unit
        assert found[[3, 19]].isnan().all()
