"""Reading config.json with checked types, so that a wrong field is named at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from kept.errors import CheckpointError, UnsupportedModelError

# Far above any model, and little enough to lay out before the weights are seen.
MAX_LAYERS, MAX_HEAD, MAX_EXPERTS = 1_024, 2**16, 4_096
# Of numbers that are no counts: what formulas can be put to without leaving the range of a float.
_SMALLEST, _LARGEST = 1e-30, 1e30
_MAX_SHOWN = 200  # characters of a value in a message


class Fields:
    """The fields of a config.json.

    Every getter raises CheckpointError that names the field, its value and what is allowed.
    `null` counts as absent.
    """

    def __init__(self, config: Mapping[str, Any], where: str = "config.json") -> None:
        self._config, self._where = config, where

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._config.get(name) is not None

    def given(self, name: str) -> bool:
        """Whether the field is there, null or not."""
        return name in self._config

    def integer(
        self, name: str, default: int | None = None, *, minimum: int = 1, maximum: int = 2**31 - 1
    ) -> int:
        """An integer from `minimum` to `maximum`."""
        value = self._value(name, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise self._wrong(name, value, f"an integer of at least {minimum}")
        if value > maximum:
            raise self._wrong(name, value, f"an integer of at most {maximum}")
        return value

    def number(self, name: str, default: float | None = None, *, positive: bool = True) -> float:
        """A number from 1e-30 to 1e30, or from -1e30 on with `positive` off."""
        value = self._value(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self._wrong(name, value, "a number")
        if value != value or abs(value) == float("inf") or (positive and value <= 0):
            raise self._wrong(name, value, "a finite number" + (" above 0" if positive else ""))
        smallest = _SMALLEST if positive else -_LARGEST
        if not smallest <= value <= _LARGEST:
            raise self._wrong(name, value, f"a number from {smallest:g} to {_LARGEST:g}")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """true or false."""
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def choice(self, name: str, default: str, choices: Collection[str]) -> str:
        """One of `choices`; raises UnsupportedModelError for another string."""
        value = self._value(name, default)
        if not isinstance(value, str):
            raise self._wrong(name, value, f"a string, of which kept knows {', '.join(choices)}")
        if value not in choices:
            raise UnsupportedModelError(
                f"{self._where} has {name} = {_shown(value)}, and kept runs {', '.join(choices)}"
            )
        return value

    def strings(
        self, name: str, length: int, *, choices: tuple[str, ...]
    ) -> tuple[str, ...] | None:
        """A list of `length` strings out of `choices`, or None if absent.

        Raises UnsupportedModelError for another string.
        """
        value = self._config.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(x, str) for x in value):
            raise self._wrong(name, value, "a list of strings")
        if len(value) != length:
            raise self._wrong(name, value, f"a list of {length}, one per layer")
        unknown = sorted(set(value) - set(choices))
        if unknown:
            raise UnsupportedModelError(
                f"{self._where} has {_shown(unknown[0])} in {name}, and kept runs "
                f"{', '.join(choices)}"
            )
        return tuple(value)

    def integers(self, name: str, *, maximum: int) -> tuple[int, ...]:
        """A list of integers from 0 to `maximum`; none if absent."""
        value = self._config.get(name)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(type(x) is int for x in value):
            raise self._wrong(name, value, "a list of integers")
        if value and not 0 <= min(value) <= max(value) <= maximum:
            raise self._wrong(name, value, f"a list of integers from 0 to {maximum}")
        return tuple(value)

    def is_list(self, name: str) -> bool:
        """Whether the field is a list."""
        return isinstance(self._config.get(name), list | tuple)

    def numbers(self, name: str, length: int, *, positive: bool = True) -> tuple[float, ...]:
        """A list of `length` finite numbers above 0, or of any with `positive` off."""
        value = self._value(name, None)
        if not isinstance(value, list) or len(value) != length:
            raise self._wrong(name, value, f"a list of {length} numbers")
        return tuple(Fields({name: x}, self._where).number(name, positive=positive) for x in value)

    def flags(self, name: str, length: int) -> list[bool] | None:
        """A list of `length` numbers 0 or 1, or of true or false; None if absent."""
        value = self._config.get(name)
        if value is None:
            return None
        fits = isinstance(value, list) and len(value) == length
        if not fits or not all(isinstance(x, int) and x in (0, 1) for x in value):
            raise self._wrong(name, value, f"a list of {length} numbers 0 or 1, one per layer")
        return [bool(x) for x in value]

    def sizes(self, name: str) -> tuple[int, ...] | None:
        """A list of positive integers, or None if absent."""
        value = self._config.get(name)
        if value is None:
            return None
        whole = isinstance(value, list | tuple) and all(type(x) is int for x in value)
        if not whole or not all(0 < x < 2**31 for x in value):
            raise self._wrong(name, value, "a list of integers of at least 1")
        return tuple(value)

    def names(self) -> tuple[str, ...]:
        """The names of all fields."""
        return tuple(self._config)

    def nested(self, name: str) -> Fields | None:
        """The object under `name`, or None if absent or empty."""
        value = self._config.get(name)
        if value is None or value == {}:
            return None
        if not isinstance(value, Mapping):
            raise self._wrong(name, value, "an object")
        return Fields(value, f"{self._where}'s {name}")

    def text_config(self) -> Fields:
        """What describes the text model of one that also sees or hears; raises CheckpointError
        where nothing does."""
        found = self.nested("text_config")
        if found is None:
            raise CheckpointError(
                f"{self._where} has model_type = {self._config.get('model_type')!r} and no "
                "text_config, which describes its text model; is it the config of this model, "
                "complete?"
            )
        return found

    def over(self, below: Fields) -> Fields:
        """These fields, and those of `below` that are not among them."""
        return Fields({**below._config, **self._config}, self._where)

    def refuse(self, name: str, neutral: object, why: str) -> None:
        """Raise UnsupportedModelError unless the field is absent or has its neutral value."""
        value = self._config.get(name)
        if value is not None and value != neutral:
            raise UnsupportedModelError(
                f"{self._where} has {name} = {_shown(value)}, and kept runs only {neutral!r}: {why}"
            )

    def _value(self, name: str, default: object) -> object:
        value = self._config.get(name)
        if value is not None:
            return value
        if default is None:
            raise CheckpointError(
                f"{self._where} has no {name}, which this architecture needs; "
                "is it the config of this model, complete?"
            )
        return default

    def _wrong(self, name: str, value: object, allowed: str) -> CheckpointError:
        return CheckpointError(
            f"{self._where} has {name} = {_shown(value)}, which must be {allowed}"
        )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
