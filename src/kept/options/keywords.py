"""Keywords that an object of options does not have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import wraps
from typing import Any, TypeVar

from kept.errors import OptionError

T = TypeVar("T")


def refuse_keywords(
    kind: str, given: Mapping[str, object], known: Iterable[str], elsewhere: Mapping[str, str]
) -> None:
    """Raise OptionError for a keyword that is not `known`.

    kind: what was called. elsewhere: what to do about names that have another place.
    """
    known = frozenset(known)
    for name in given.keys() - known:
        if name in elsewhere:
            raise OptionError(f"{name} is no option of {kind}; {elsewhere[name]}")
        raise OptionError(f"{kind} has no {name}; there are {', '.join(sorted(known))}")


def refuses_others(elsewhere: Mapping[str, str]) -> Callable[[type[T]], type[T]]:
    """Decorate a dataclass: a keyword that is no field is an OptionError, with its remedy.

    elsewhere: what to do about names that have another place.
    """

    def decorate(kind: type[T]) -> type[T]:
        init: Callable[..., None] = vars(kind)["__init__"]
        known = [field.name for field in fields(kind)]  # type: ignore[arg-type]  # a dataclass

        @wraps(init)  # so that a signature still shows the fields
        def checked(self: T, *positional: Any, **given: Any) -> None:
            refuse_keywords(kind.__name__, given, known, elsewhere)
            init(self, *positional, **given)

        type.__setattr__(kind, "__init__", checked)
        return kind

    return decorate
