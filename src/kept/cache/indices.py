"""Lengths and slots as callers give them, made into plain ints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeGuard

import numpy as np
import torch

from kept.errors import OptionError

ARRAYS = (np.generic, np.ndarray, torch.Tensor)
MAX_SLOTS = 2**20  # each has a line in every list of lengths, so more would fill memory by itself
_LARGEST = 2**48  # of anything that is counted, and far within what torch can be told


def read_whole(value: object, what: str) -> int:
    """One whole number: an int, or a numpy or torch scalar of integers.

    Raises OptionError for anything else; a number cut to fit would name another token or slot.
    """
    plain = value.item() if _is_scalar(value) else value
    if isinstance(plain, bool) or not isinstance(plain, int):
        raise OptionError(f"{what} is {value!r:.100}; pass whole numbers")
    if abs(plain) > _LARGEST:
        raise OptionError(f"{what} is {_spell(plain)}, beyond {_LARGEST:,}; pass a smaller number")
    return plain


def read_all_whole(values: object, what: str) -> list[int]:
    """Whole numbers out of a list, tuple, array or tensor; raises OptionError as `read_whole`."""
    if not _is_listed(values):
        raise OptionError(f"{what} is {values!r:.100}; pass a list of whole numbers")
    return [read_whole(value, what) for value in values]


def read_lengths(value: object, num_slots: int) -> list[int]:
    """Lengths to truncate to: one for every slot, or one for all. Raises OptionError otherwise."""
    if _is_listed(value):
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
    check_num_slots(len(order), "select")
    if not order or any(not 0 <= i < num_slots for i in order):
        raise OptionError(
            f"cannot select slots {order} of a cache of {num_slots}; give at least one index from "
            f"0 to {num_slots - 1}"
        )
    return order


def read_slots(values: object, what: str) -> tuple[int, ...]:
    """Slots, one at least, as whole numbers. Raises OptionError for anything else."""
    slots = tuple(read_all_whole(values, what))
    if not slots:
        raise OptionError(f"{what}: none is given; give at least one")
    return slots


def check_num_slots(count: int, what: str) -> None:
    """Raise OptionError for more slots than any cache can have."""
    if count > MAX_SLOTS:
        raise OptionError(f"{what}: {count:,} slots are more than the {MAX_SLOTS:,} of any cache")


def _spell(number: int) -> str:
    # Python spells no integer of thousands of digits.
    return f"{number:,}" if number.bit_length() < 128 else f"{hex(number):.30}..."


def _is_listed(value: object) -> TypeGuard[Iterable[object]]:
    if isinstance(value, ARRAYS):
        return value.ndim > 0
    return isinstance(value, Iterable) and not isinstance(value, str | bytes)


def _is_scalar(value: object) -> TypeGuard[np.generic | np.ndarray | torch.Tensor]:
    # Numbers on the meta device, or in sparse tensors, are not there to be read.
    if isinstance(value, torch.Tensor) and (value.is_meta or value.layout != torch.strided):
        return False
    return isinstance(value, ARRAYS) and value.ndim == 0
