"""What torch was told about fp32 products elsewhere changes none of kept's."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from kept.ops import exact_products


def told() -> str:
    return torch._C._get_fp32_precision_getter("mkldnn", "matmul")


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = told()
    yield
    torch._C._set_fp32_precision_setter("mkldnn", "matmul", before)


def test_products_are_those_of_fp32() -> None:
    x, y = torch.randn(64, 512, generator=torch.Generator().manual_seed(0)).chunk(2)
    usual = x @ y.T
    torch.set_float32_matmul_precision("medium")
    with exact_products():
        assert torch.equal(x @ y.T, usual)
    assert torch.get_float32_matmul_precision() == "medium"


def test_the_last_to_go_restores() -> None:
    """Also where steps of several threads overlap, and where one raises."""
    torch._C._set_fp32_precision_setter("mkldnn", "matmul", "bf16")
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with exact_products():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(10)
    with pytest.raises(ZeroDivisionError), exact_products():
        raise ZeroDivisionError
    assert told() == "ieee"
    leave.set()
    thread.join()
    assert told() == "bf16"


def test_a_setting_made_meanwhile_stays() -> None:
    with exact_products():
        torch._C._set_fp32_precision_setter("mkldnn", "matmul", "bf16")
        with exact_products():
            assert told() == "ieee"
    assert told() == "bf16"
