"""Mixtures of experts on the kernels, against the reference over the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pytest
import torch
from thinning import in_part
from torch import Tensor

from kept.ops import Expert, PackedMatrix, Router, Routing, mixture, trace_experts
from kept.ops.activations import Activations
from kept.ops.mxfp4 import Mxfp4Matrix
from kept.ops.trace import Rows

from .conftest import NAMES
from .driving import FORMATS, Rig
from .driving import pack_as as pack_others

WIDTH, INNER, NUM_EXPERTS = 72, 40, 7
KINDS: tuple[tuple[str, Activations], ...] = (
    *((format, "bfloat16") for format in (*FORMATS, "mxfp4")), ("int8", "int8"), ("int4", "int8"),
    ("q8_0", "bfloat16"), ("q4_0", "int8"),
)  # fmt: skip
CLOSE = {
    "fp32": 1e-5,
    "bf16": 2e-2,
    "int8": 3e-2,
    "int4": 3e-2,
    "mxfp4": 2e-2,
    "q8_0": 3e-2,
    "q4_0": 3e-2,
}


def pack_as(format: str, weight: Tensor, *, gated: bool = False) -> PackedMatrix:
    """A matrix near `weight`; of mxfp4 any at all of about its size."""
    if format != "mxfp4":
        return pack_others(format, weight, gated=gated)
    num_out, num_in = weight.shape
    codes = torch.randint(16, (num_out, num_in), dtype=torch.uint8)
    scales = torch.randint(122, 125, (num_out, -(-num_in // 32)), dtype=torch.uint8)
    return Mxfp4Matrix(codes, scales).pack(gated=gated, bias=None)


def drawn(format: str) -> list[Expert]:
    """Experts with packed matrices."""

    def matrix(num_out: int, num_in: int, gated: bool) -> PackedMatrix:
        weight = torch.randn(num_out, num_in) / num_in**0.5
        return pack_as(format, weight, gated=gated)

    return [
        Expert(matrix(2 * INNER, WIDTH, True), matrix(WIDTH, INNER, False))
        for _ in range(NUM_EXPERTS)
    ]


def run(
    x: Tensor, router: Tensor, experts: Sequence[Expert], routing: Routing,
    activations: Activations = "bfloat16", shared: Tensor | None = None, threads: int = 2,
    choice_bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """What the kernels make of rows (N, WIDTH)."""
    rig = Rig()
    rig.traced.activations = activations
    is_bf16 = experts[0].gate_up.format != "fp32" and activations == "bfloat16"
    rows = Rows(rig.traced, rig.rows(x, bf16=is_bf16))
    beside = None if shared is None else Rows(rig.traced, rig.rows(shared))
    chosen_by = Router(router, choice_bias=choice_bias)
    out = trace_experts.experts(rows, chosen_by, experts, routing, "silu", beside)
    return rig.run(len(x), threads=threads)[0].rows(out.buffer, len(x))


def expected(
    x: Tensor, router: Tensor, experts: Sequence[Expert], routing: Routing,
    shared: Tensor | None = None, choice_bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    plain = [Expert(each.gate_up.unpack(), each.down.unpack()) for each in experts]
    chosen_by = Router(router, choice_bias=choice_bias)
    return mixture.experts(x, chosen_by, plain, routing, "silu", shared)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize(("format", "activations"), KINDS)
def test_against_the_reference(
    isa: str, format: str, activations: Activations, normalised: bool
) -> None:
    experts, router = drawn(format), torch.randn(NUM_EXPERTS + 1, WIDTH)
    if format != "fp32":
        router = router.bfloat16().float()
    for rows in (1, 2, 19):
        places = NAMES.index(isa), rows, normalised, KINDS.index((format, activations))
        if not in_part(*places, out_of=4):
            continue
        x, shared = torch.randn(rows, WIDTH), torch.randn(rows, WIDTH)
        x = x if format == "fp32" else x.bfloat16().float()
        for top_k in (1, 3, NUM_EXPERTS):
            routing = Routing(top_k, normalised)
            found = run(x, router, experts, routing, activations, shared)
            exact = expected(x, router, experts, routing, shared)
            atol = CLOSE[format] * float(exact.abs().max())
            torch.testing.assert_close(found, exact, rtol=0.0, atol=atol)


def test_a_row_is_the_same_among_any_others(isa: str) -> None:
    router, routing, x = torch.randn(NUM_EXPERTS, WIDTH), Routing(2, True), torch.randn(40, WIDTH)
    for number, (format, activations) in enumerate(KINDS):
        if not in_part(NAMES.index(isa), number, out_of=2):
            continue
        experts = drawn(format)
        whole = run(x, router, experts, routing, activations)
        for threads, rows in ((1, slice(0, 1)), (2, slice(3, 5)), (3, slice(7, 40))):
            found = run(x[rows], router, experts, routing, activations, threads=threads)
            assert torch.equal(found, whole[rows])


def test_what_no_row_chose_is_not_read() -> None:
    experts, router, routing = drawn("fp32"), torch.randn(NUM_EXPERTS, WIDTH), Routing(2, False)
    x = torch.randn(5, WIDTH)
    chosen, _ = mixture.choose(x @ router.T, routing)
    before = run(x, router, experts, routing)
    broken = pack_as("fp32", torch.full((WIDTH, INNER), torch.nan))
    for number in range(NUM_EXPERTS):
        worse = list(experts)
        worse[number] = Expert(experts[number].gate_up, broken)
        found, asked = run(x, router, worse, routing), (chosen == number).any(1)
        assert torch.equal(found[~asked], before[~asked])
        assert found[asked].isnan().all()


@pytest.mark.parametrize("normalised", [False, True])
def test_equal_scores_and_those_that_are_no_numbers(normalised: bool) -> None:
    # Of eighths, whose sums no order of adding rounds: equal rows of the router score alike.
    router, x = (torch.randint(-8, 9, (rows, WIDTH)) / 8 for rows in (NUM_EXPERTS, 9))
    experts, routing = drawn("fp32"), Routing(2, normalised)
    router[[2, 4, 6]] = router[1].clone()
    x[3] = torch.nan
    found, exact = (make(x, router, experts, routing) for make in (run, expected))
    assert exact.isnan().all(1).tolist() == [i == 3 for i in range(9)]
    torch.testing.assert_close(found, exact, rtol=0.0, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
def test_groups_sigmoids_and_a_bias(
    monkeypatch: pytest.MonkeyPatch, scoring: Literal["softmax", "sigmoid"], normalised: bool
) -> None:
    monkeypatch.setenv("KEPT_ISA", NAMES[0])
    experts = [*drawn("fp32"), *drawn("fp32")[:5]]
    router, x = torch.randn(len(experts), WIDTH), torch.randn(41, WIDTH)
    x[7] = torch.nan
    bias = torch.randn(len(experts)) if scoring == "sigmoid" else None
    for groups, top_groups, best in ((1, 1, 1), (4, 2, 2), (3, 1, 1), (6, 3, 2), (2, 2, 3)):
        group_best = best if scoring == "sigmoid" else 1
        routing = Routing(3, normalised, scoring, 2.5, groups, top_groups, group_best)
        found = run(x, router, experts, routing, choice_bias=bias)
        exact = expected(x, router, experts, routing, choice_bias=bias)
        torch.testing.assert_close(found, exact, rtol=0.0, atol=3e-5, equal_nan=True)
        alone = run(x[3:4], router, experts, routing, choice_bias=bias, threads=1)
        assert torch.equal(alone, found[3:4])


@pytest.mark.parametrize(
    "routing",
    [
        Routing(2, False, num_groups=2),
        Routing(4, False, num_groups=7, top_groups=3),
        Routing(2, False, num_groups=7, top_groups=8),
        Routing(2, False, num_groups=7, top_groups=2, group_best=2),
    ],
)
def test_groups_that_cannot_be(routing: Routing) -> None:
    with pytest.raises(ValueError, match="groups hold as many experts each"):
        run(torch.randn(2, WIDTH), torch.randn(NUM_EXPERTS, WIDTH), drawn("fp32"), routing)
