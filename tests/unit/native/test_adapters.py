"""Adapters of linear layers on the kernels, against the reference over the same numbers."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from thinning import in_part
from torch import Tensor

from kept.ops import AdaptedRows, Adapters, LowRank, PackedMatrix, reference, trace
from kept.ops.activations import Activations
from kept.ops.adapters import adapt
from kept.ops.trace import Rows

from .driving import FORMATS, Rig, pack_as

WIDTH, HALF = 72, 40
# Sequences of the step, and which adapter each goes through.
STARTS, OF = (0, 1, 6, 8, 15), (1, -1, 0, 1)
ROWS = STARTS[-1]
TOGETHER: dict[str, Any] = {
    "starts": STARTS,
    "slots": (0,) * 4,
    "lengths": [ROWS] * 4,
    "adapters": OF,
}
KINDS: tuple[tuple[str, Activations], ...] = (
    *((format, "bfloat16") for format in FORMATS), ("int8", "int8"), ("int4", "int8"),
)  # fmt: skip
ENDINGS = ("store", "add", "activate", "gate")


def drawn(dtype: torch.dtype = torch.float32) -> Adapters:
    """Of a matrix (2 HALF, WIDTH): one reaches three parts of its outputs, whose bounds lie within
    strips, one the second half alone, and one nothing."""

    def part(start: int, stop: int, rank: int, scale: float) -> LowRank:
        down, up = torch.randn(rank, WIDTH) / WIDTH**0.5, torch.randn(stop - start, rank)
        return LowRank(start, stop, down.to(dtype), up.to(dtype), scale)

    three = part(0, 25, 5, 0.5), part(25, 47, 1, 2.0), part(50, 2 * HALF, 3, -1.0)
    return Adapters((three, (part(HALF, 2 * HALF, 9, 1.0),), ()))


def run(
    x: Tensor,
    weight: PackedMatrix,
    ending: str,
    known: Adapters | None,
    activations: Activations = "bfloat16",
    *,
    before: Tensor | None = None,
    **step: Any,
) -> Tensor:
    """What the kernels make of rows (N, WIDTH); before: rows that the product is added to."""
    rig = Rig()
    rig.traced.activations = activations
    is_bf16 = weight.format != "fp32" and not (
        activations == "int8" and weight.format in ("int8", "int4")
    )
    rows = Rows(rig.traced, rig.rows(x, bf16=is_bf16))
    beside = None if before is None else Rows(rig.traced, rig.rows(before))
    made = trace.linear(rows, weight, None, known)
    if beside is not None:
        made = beside + made
    elif ending == "activate":
        made = trace.activate(made, "silu")
    elif ending == "gate":
        made = trace.gated(made, "silu")
    return rig.run(len(x), **step)[0].rows(made.buffer, len(x))


def expected(
    x: Tensor, weight: PackedMatrix, ending: str, adapters: Adapters, before: Tensor | None
) -> Tensor:
    rows = AdaptedRows()
    rows.set(OF, STARTS, x.device)
    made = adapt(x, x @ weight.unpack().T, Adapters(adapters.each, rows))
    if before is not None:
        return before + made
    ends = {"activate": reference.activate, "gate": reference.gated}
    return ends[ending](made, "silu") if ending in ends else made


def case(format: str, ending: str) -> tuple[Tensor, PackedMatrix, Tensor | None]:
    weight = torch.randn(2 * HALF, WIDTH) / WIDTH**0.5
    x = torch.randn(ROWS, WIDTH)
    x = x if format == "fp32" else x.bfloat16().float()
    before = torch.randn(ROWS, 2 * HALF) if ending == "add" else None
    return x, pack_as(format, weight, gated=ending == "gate"), before


@pytest.mark.parametrize(("format", "activations"), KINDS)
def test_against_the_reference(isa: str, format: str, activations: Activations) -> None:
    kind = KINDS.index((format, activations)) + len(isa)
    for at, (ending, dtype) in enumerate(product(ENDINGS, (torch.float32, torch.bfloat16))):
        if not in_part(kind, at, out_of=5):
            continue
        x, weight, before = case(format, ending)
        adapters = drawn(dtype)
        found = run(x, weight, ending, adapters, activations, before=before, **TOGETHER)
        exact = expected(x, weight, ending, adapters, before)
        # Whole numbers in place of bf16 move an input by up to half a unit of its group.
        rounding = 3e-2 if activations == "int8" else 5e-5 if format == "int4" else 1e-5
        atol = float(exact.abs().max()) * rounding
        torch.testing.assert_close(found, exact, rtol=0.0, atol=atol)


@pytest.mark.parametrize(("format", "activations"), KINDS)
def test_a_row_is_the_same_among_any_others(
    isa: str, format: str, activations: Activations
) -> None:
    if not in_part(len(isa), KINDS.index((format, activations)), out_of=3):
        return
    ending = "gate" if KINDS.index((format, activations)) % 2 else "store"
    x, weight, _ = case(format, ending)
    adapters = drawn(torch.bfloat16)
    whole = run(
        x, weight, ending, adapters, activations,
        **TOGETHER,
    )  # fmt: skip
    for number, begin, end in zip(OF, STARTS, STARTS[1:], strict=False):
        for rows, threads in ((slice(begin, end), 1), (slice(begin, begin + 1), 3)):
            alone = run(
                x[rows], weight, ending, adapters, activations, threads=threads, adapters=(number,)
            )
            assert torch.equal(alone, whole[rows])
            if number < 0:
                assert torch.equal(alone, run(x[rows], weight, ending, None, activations))


def test_one_that_leaves_a_layer_alone_changes_nothing(isa: str) -> None:
    x, weight, _ = case("bf16", "gate")
    found = run(x, weight, "gate", drawn(), adapters=(2,))
    assert torch.equal(found, run(x, weight, "gate", None))


def test_what_does_not_fit_is_refused() -> None:
    x, weight, _ = case("fp32", "store")
    with pytest.raises(IndexError, match="an adapter that there is not"):
        run(x, weight, "store", drawn(), adapters=(3,))
    with pytest.raises(ValueError, match="each sequence"):
        run(x, weight, "store", drawn(), adapters=(0, 1))
