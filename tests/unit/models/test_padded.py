"""Packing padded input and unpacking what came of it."""

from __future__ import annotations

import torch

from kept.models.padded import read_padded

IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])


def test_rows_are_copied_only_where_there_is_padding() -> None:
    rows = torch.randn(6, 5)
    whole = read_padded(IDS, None, None, None, vocab_size=9).unpack(rows)
    assert whole.data_ptr() == rows.data_ptr()
    assert torch.equal(whole, rows.view(2, 3, 5))


def test_padding_is_zero_and_carries_no_gradient() -> None:
    rows = torch.randn(4, 5, requires_grad=True)
    mask = torch.tensor([[0, 1, 1], [1, 1, 0]])
    found = read_padded(IDS, mask, None, None, vocab_size=9).unpack(rows)
    assert torch.equal(found[mask.bool()], rows)
    assert not found[~mask.bool()].any()
    found.sum().backward()
    assert torch.equal(rows.grad, torch.ones(4, 5))
