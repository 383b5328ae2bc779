"""An option's value: the caller's, else the checkpoint's, else the default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from kept.options.field import Field

GENERATION_CONFIG = "generation_config.json"

T = TypeVar("T")


class Reader:
    """Reads options from the caller's values, then the checkpoint's, then the defaults.

    given: None stands for a value that is not given. source: the file that `config` comes from.
    """

    def __init__(
        self, given: Mapping[str, object], config: Mapping[str, object], source: str
    ) -> None:
        self._given, self._config, self._source = given, config, source

    def is_given(self, field: Field[object]) -> bool:
        """Whether the caller sets the option."""
        return self._given.get(field.name) is not None

    def is_set(self, field: Field[object]) -> bool:
        """Whether the caller or the checkpoint sets the option."""
        return self.is_given(field) or self._config.get(field.name) is not None

    def get(self, field: Field[T]) -> T:
        """The value, verified; raises OptionError for one of the checkpoint that will not do."""
        if self.is_given(field):
            return field.check(field.name, self._given[field.name])
        value = self._config.get(field.name)
        if value is None:
            return field.default
        return field.check(f"{self._source}'s {field.name}", value)

    def get_given(self, field: Field[T]) -> T:
        """The value of an option that generation_config.json does not have."""
        return self.get(field) if self.is_given(field) else field.default

    def show(self, field: Field[object]) -> str:
        """Name an option, its value and where the value comes from, for an error."""
        text = f"{field.name}={self.get(field)!r}"
        if self.is_given(field):
            return text
        return f"{text} ({f'from {self._source}' if self.is_set(field) else 'the default'})"
