"""Lengths and slots as callers give them, made into plain ints."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from kept.errors import OptionError

ARRAYS = (np.generic, np.ndarray, torch.Tensor)


def read_whole(value: object, what: str) -> int:
    """One whole number: an int, or a numpy or torch scalar of integers.

    Raises OptionError for anything else; a number cut to fit would name another token or slot.
    """
    plain = value.item() if isinstance(value, ARRAYS) and value.ndim == 0 else value
    if isinstance(plain, bool) or not isinstance(plain, int):
        raise OptionError(f"{what} is {value!r}; pass whole numbers")
    return plain


def read_all_whole(values: object, what: str) -> list[int]:
    """Whole numbers out of a list, tuple, array or tensor; raises OptionError as `read_whole`."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable) or _is_scalar(values):
        raise OptionError(f"{what} is {values!r}; pass a list of whole numbers")
    return [read_whole(value, what) for value in values]


def read_lengths(value: object, num_slots: int) -> list[int]:
    """Lengths to truncate to: one for every slot, or one for all. Raises OptionError otherwise."""
    if isinstance(value, Iterable) and not _is_scalar(value):
        lengths = read_all_whole(value, "a length to truncate to")
    else:
        lengths = [read_whole(value, "the length to truncate to")] * num_slots
    if len(lengths) != num_slots or any(n < 0 for n in lengths):
        raise OptionError(
            f"truncate takes one length of at least 0, or one for each of {num_slots} slots, and "
            f"was given {value}"
        )
    return lengths


def read_selected(values: object, num_slots: int) -> list[int]:
    """Slots to select, one at least. Raises OptionError for what is no slot."""
    order = read_all_whole(values, "a slot to select")
    if not order or any(not 0 <= i < num_slots for i in order):
        raise OptionError(
            f"cannot select slots {order} of a cache of {num_slots}; give at least one index from "
            f"0 to {num_slots - 1}"
        )
    return order


def _is_scalar(value: object) -> bool:
    return isinstance(value, ARRAYS) and value.ndim == 0
