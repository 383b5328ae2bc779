"""One option: its name, its check and its default, and the checks that many options share.

The command line reads its options' help from here before anything is computed, so numpy, which
takes a while to import, is not: its numbers are known by the abstract ones they are registered as.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Generic, TypeVar

from kept.errors import OptionError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Field(Generic[T_co]):
    """One option: `check(label, value)` returns the value in its one canonical form or raises."""

    name: str
    check: Callable[[str, object], T_co]
    default: T_co


def check_given(options: object, fields: Iterable[Field[object]]) -> None:
    """Put each option of a frozen object that is not None into its canonical form.

    Raises OptionError for the first that its field's check refuses.
    """
    for field in fields:
        value = getattr(options, field.name)
        if value is not None:
            object.__setattr__(options, field.name, field.check(field.name, value))


def integer(minimum: int, maximum: int | None = None) -> Callable[[str, object], int]:
    """A check for whole numbers, numpy's among them, of at least `minimum`."""
    allowed = f"{minimum} or more" if maximum is None else f"from {minimum} to {maximum}"

    def check(label: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise OptionError(
                f"{label}={value!r} is of type {type(value).__name__}; "
                f"pass a whole number, {allowed}"
            )
        whole = int(value)
        if whole < minimum or (maximum is not None and whole > maximum):
            raise OptionError(f"{label}={value!r} is out of range; pass a whole number, {allowed}")
        return whole

    return check


def number(
    low: float = -math.inf, high: float = math.inf, *, above_low: bool = False
) -> Callable[[str, object], float]:
    """A check for finite numbers from `low`, or above it, to `high`."""
    left = "(" if above_low or low == -math.inf else "["
    right = ")" if high == math.inf else "]"
    allowed = f"a finite number in {left}{low:g}, {high:g}{right}"

    def check(label: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise OptionError(
                f"{label}={value!r} is of type {type(value).__name__}; pass {allowed}"
            )
        try:
            number = float(value)
        except OverflowError:
            raise OptionError(f"{label}={value!r} is too large; pass {allowed}") from None
        below = number <= low if above_low else number < low
        if not math.isfinite(number) or below or number > high:
            raise OptionError(f"{label}={value!r} is out of range; pass {allowed}")
        return number

    return check


def boolean(label: str, value: object) -> bool:
    """True or False as they are; raises OptionError for anything else."""
    if not isinstance(value, bool):
        raise OptionError(
            f"{label}={value!r} is of type {type(value).__name__}; pass True or False"
        )
    return value


def choice(*choices: T) -> Callable[[str, object], T]:
    """A check for one of some names."""

    def check(label: str, value: object) -> T:
        for choice in choices:
            if isinstance(value, str) and value == choice:  # an array compares number by number
                return choice
        allowed = ", ".join(map(str, choices))
        raise OptionError(f"{label}={value!r} is not known; pass one of {allowed}")

    return check


def items(label: str, value: object, wanted: str) -> tuple[object, ...]:
    """What a list or another iterable holds; raises OptionError, which asks for `wanted`."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise OptionError(f"{label}={value!r} is of type {type(value).__name__}; pass {wanted}")
    try:
        return tuple(value)
    except TypeError as error:  # a tensor of no dimension has __iter__ and cannot be iterated
        raise OptionError(f"{label}={value!r} is a single value; pass {wanted}") from error
