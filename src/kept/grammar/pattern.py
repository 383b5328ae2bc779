"""Patterns of a JSON schema are ECMAScript's; what Rust's regex reads otherwise is refused."""

from __future__ import annotations

import re
from typing import Any, Final

from kept.errors import OptionError

_ESCAPED: Final = frozenset("dDwWsSpPtnrfv0xu")
_GROUP: Final = re.compile(r"\(\?(:|<[A-Za-z_])")


def check_pattern(path: str, pattern: Any) -> None:
    """Raise OptionError for what the two read differently: flags, classes within classes and their
    sums, escapes of one of them alone."""
    if not isinstance(pattern, str):
        raise OptionError(f"{path}={pattern!r:.100} is no string; give a regular expression")
    at, in_class = 0, False
    while at < len(pattern):
        here = pattern[at]
        if here == "\\":
            _check_escape(path, pattern, at)
            at += 2
            continue
        if in_class:
            if here == "[" or pattern[at : at + 2] in ("&&", "--", "~~"):
                raise _refused(path, pattern, at, "escape it by a backslash")
            in_class = here != "]"
        elif here == "[":
            in_class = True
            at += pattern.startswith("^", at + 1)
            if pattern.startswith("]", at + 1):
                raise _refused(path, pattern, at, "an empty class matches nothing; escape the ]")
        elif here == "(" and pattern.startswith("?", at + 1) and not _GROUP.match(pattern, at):
            raise _refused(path, pattern, at, "groups are (...), (?:...) or (?<name>...)")
        at += 1


def _check_escape(path: str, pattern: str, at: int) -> None:
    escaped = pattern[at + 1 : at + 2]
    if not escaped or (escaped.isalnum() and escaped not in _ESCAPED):
        raise _refused(path, pattern, at, "this escape has no meaning here")


def _refused(path: str, pattern: str, at: int, remedy: str) -> OptionError:
    part = pattern[at : at + 12]
    return OptionError(f"{path}={pattern!r:.100} cannot be used because of {part!r}: {remedy}")
