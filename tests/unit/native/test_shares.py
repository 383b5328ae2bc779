"""What threads take of each other's shares changes no bit, nor which of equals comes first."""

import pytest
import torch
from torch import Tensor

from kept.ops import Program
from kept.ops.quantize import BLOCK_FORMATS

from .driving import FORMATS, Rig, pack_as

WHOLE = ("int8", "int4", "q8_0", "q4_0")  # formats that int8 codes of rows meet, too


@pytest.mark.parametrize(
    ("format", "codes"),
    [(format, False) for format in (*FORMATS, *BLOCK_FORMATS)]
    + [(format, True) for format in WHOLE],
)
def test_parts_that_others_take(isa: str, format: str, codes: bool) -> None:
    """With more threads than cores some are always late. Every logit comes twice."""
    w = pack_as(format, torch.randn(900, 70).repeat(2, 1))
    x = torch.randn(40, 70).bfloat16().float()

    def run(rows: int, threads: int) -> tuple[Program, Tensor]:
        rig = Rig()
        a = rig.rows(x[:rows], bf16=not codes and format != "fp32")
        rig.linear(rig.quantize(a, format) if codes else a, w, "logits")
        return rig.run(rows, threads=threads, top_k=5)

    for rows in (1, 7, 16, 40):
        alone, expected = run(rows, 1)
        for threads in (2, 7, 7, 7):
            program, logits = run(rows, threads)
            assert torch.equal(logits, expected)
            assert program.best() == alone.best()
            for found, wanted in zip(program.top(), alone.top(), strict=True):
                assert found.tolist() == wanted.tolist()
