"""What one rendering of a chat template may take: steps, sizes and time.

A template comes with a checkpoint, and so from anyone. Every operation that can grow or repeat asks
the rendering's `Budget` first (`template_environment.py` says where), so that a template without an
end becomes an error while it is still cheap.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, KeysView, Mapping, Set, ValuesView
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import repeat
from typing import Any, TypeVar

from jinja2.exceptions import TemplateRuntimeError

# A real template renders a long conversation in thousands of steps and a few milliseconds.
MAX_STEPS = 1_000_000
MAX_VALUE = 10_000_000  # characters of one value; an element of a list counts as ELEMENT of them
MAX_TOTAL = 100_000_000  # characters of all values, dropped ones included
ELEMENT = 16
MAX_SECONDS = 5.0  # of this thread's CPU time
MAX_BITS = 10_000  # of an integer; Python spells none beyond 14,284
MAX_DEPTH = 200  # of lists in lists
Value = TypeVar("Value")


class ExceededError(TemplateRuntimeError):
    """A template asks for more than a rendering may take."""


class Budget:
    """What is left of a rendering's steps, sizes and time; every call but `__init__` draws on it.

    Limits grow with the size of what the template is given: a long conversation is no attack.
    """

    def __init__(self, given: Any = None) -> None:
        size = measure(given, None)
        self.max_value = MAX_VALUE + 4 * size
        self._max_steps = MAX_STEPS + 100 * size
        # A text that grows message by message is copied once for each of them.
        self._max_total = MAX_TOTAL + size * size // 64
        self._steps = self._total = 0
        self._seconds = MAX_SECONDS + size / 100_000
        self._end = time.thread_time() + self._seconds

    def charge(self, size: int = 0) -> None:
        """Count one step that makes a value of `size`. Raises `ExceededError`."""
        self._steps += 1
        self._total += size
        if self._steps > self._max_steps:
            raise ExceededError(f"it takes more than {self._max_steps:,} steps")
        if size > self.max_value:
            raise ExceededError(
                f"it makes a value of some {size:,} characters, and at most {self.max_value:,} "
                "are allowed"
            )
        if self._total > self._max_total:
            raise ExceededError(f"its values have more than {self._max_total:,} characters in all")
        if time.thread_time() > self._end:
            raise ExceededError(f"it computes for more than {self._seconds:.0f} seconds")


_current: ContextVar[Budget] = ContextVar("budget")


@contextmanager
def budget_for(given: Any) -> Iterator[None]:
    """Compile or render inside: `charge` and `held` draw on one budget, sized by `given`."""
    token = _current.set(Budget(given))
    try:
        yield
    finally:
        _current.reset(token)


def charge(size: int = 0) -> None:
    """Count one step of the rendering in progress, and the size of what it makes."""
    _current.get().charge(size)


def size_of(value: Any) -> int:
    """Characters of a value. Raises `ExceededError` above what one may have."""
    return measure(value, _current.get().max_value)


def held(value: Value) -> Value:
    """Count one step that made `value`, and give it back."""
    charge(size_of(value))
    return value


def measure(value: Any, most: int | None) -> int:
    """Count characters, those of a shared part once for each place it stands in.

    That is what printing, comparing or hashing it would walk through. Raises `ExceededError` above
    `most`, for lists nested too deeply and for integers too long; None: nothing is too much.
    """
    size, waiting = 0, [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        size += ELEMENT
        inner: Any = ()
        if isinstance(item, str | bytes):
            size += len(item)
        elif isinstance(item, int):
            _check_bits(item, most)
        elif isinstance(item, Mapping):
            inner = [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | Set | KeysView | ValuesView):
            inner = list(item)
        if most is not None:
            _check(size + ELEMENT * len(inner), depth, most)
        waiting.extend(zip(inner, repeat(depth + 1)))
    return size


def _check(size: int, depth: int, most: int) -> None:
    if size > most:
        raise ExceededError(f"it makes a value of more than {most:,} characters")
    if depth > MAX_DEPTH:
        raise ExceededError(f"it nests lists more than {MAX_DEPTH} deep")


def _check_bits(number: int, most: int | None) -> None:
    if most is not None and number.bit_length() > MAX_BITS:
        raise ExceededError(f"it computes with integers of more than {MAX_BITS:,} bits")
