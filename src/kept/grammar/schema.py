"""Which JSON schemas can be kept to in full: a walk that refuses the others by their path.

What is checked here is beyond what llguidance refuses itself: keywords that it takes for
annotations, or follows only half way (its issue 265 among them), and sizes that take it seconds.
`scripts/json_schemas` looks for more by walking random schemas.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final
from urllib.parse import unquote

from kept.errors import OptionError
from kept.grammar.endless import endless, escaped
from kept.grammar.pattern import check_pattern

MOST_DEPTH: Final = 48
MOST_SUBSCHEMAS: Final = 1000  # take a second to compile
_MOST_NUMBER: Final = 2**53  # beyond which JSON readers round
_MOST_MULTIPLE: Final = 1000  # digits of a divisor: so many states it takes to divide by it
_TYPES: Final = ("array", "boolean", "integer", "null", "number", "object", "string")
_FORMATS: Final = (
    *("date", "date-time", "duration", "email", "hostname"),
    *("ipv4", "ipv6", "time", "uri", "uuid"),
)
_ANNOTATIONS: Final = frozenset(
    {"$anchor", "$comment", "default", "deprecated", "description", "discriminator", "example"}
    | {"examples", "externalDocs", "readOnly", "title", "writeOnly"}
)
_OF_ROOT: Final = frozenset({"$schema", "$id"})
_DRAFTS: Final = re.compile(
    r"https?://json-schema\.org/(draft/2020-12|draft/2019-09|draft-0[67])/schema#?"
)
_WHY: Final = {
    "patternProperties": "llguidance takes it and then follows it only in part",
    "nullable": "it is no keyword of JSON Schema; write the type as [..., 'null']",
    "additionalItems": "write the first items as prefixItems, and the others as items",
}
Check = Callable[[str, Any], None]


def check_schema(schema: object, label: str) -> None:
    """Raise OptionError, naming the path, for a schema that cannot be kept to in full.

    schema: JSON, of which dicts have string keys.
    """
    refs: dict[str, str] = {}
    seen: dict[str, Any] = {}
    paths: dict[str, str] = {}
    waiting: list[tuple[str, str, Any, int]] = [(label, "#", schema, 0)]
    while waiting:
        path, pointer, found, depth = waiting.pop()
        seen[pointer], paths[pointer] = found, path
        if len(seen) > MOST_SUBSCHEMAS:
            raise OptionError(
                f"{label} holds more than {MOST_SUBSCHEMAS:,} schemas, one in another; use fewer"
            )
        if depth > MOST_DEPTH:
            raise OptionError(f"{path} lies more than {MOST_DEPTH} schemas deep; flatten it")
        if isinstance(found, bool):
            if not depth and not found:
                raise OptionError(f"{label} is false, which no JSON satisfies; pass a schema")
            continue
        if not isinstance(found, Mapping):
            raise _refused(path, found, "a schema: an object, true or false")
        for keyword, value in found.items():
            _check_keyword(path, keyword, value, is_root=not depth)
            if keyword == "$ref":
                refs[pointer] = _spelled(value)
        _check_counts(path, found)
        waiting += [
            (f"{path}{at}", f"{pointer}{to}", inner, depth + 1) for at, to, inner in _inner(found)
        ]
    for pointer, ref in refs.items():
        if ref not in seen:
            at, value = f"{paths[pointer]}.$ref", seen[pointer]["$ref"]
            raise OptionError(f"{at}={value!r} points at no schema of this one; correct it")
    never = endless(seen, refs)
    if never is not None:
        raise OptionError(
            f"{paths[never]} has to hold itself without an end, so that no JSON satisfies it; let "
            "it hold something else as well, or leave it out"
        )


def _inner(schema: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """The schemas right within one: how their paths go on, for people and as pointers."""
    for keyword in ("properties", "$defs", "definitions"):
        for name, inner in schema.get(keyword, {}).items():
            yield f".{keyword}.{name}", f"/{keyword}/{escaped(name)}", inner
    for keyword in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for i, inner in enumerate(schema.get(keyword, [])):
            yield f".{keyword}[{i}]", f"/{keyword}/{i}", inner
    for keyword in ("items", "additionalProperties"):
        if keyword in schema:
            yield f".{keyword}", f"/{keyword}", schema[keyword]


def _spelled(ref: str) -> str:
    return "#" if ref == "#/" else unquote(ref)


def _check_keyword(path: str, keyword: object, value: Any, *, is_root: bool) -> None:
    where = f"{path}.{keyword}"
    if not isinstance(keyword, str):
        raise OptionError(f"{where}: the keys of a schema are strings")
    check = _CHECKS.get(keyword)
    if check is not None:
        check(where, value)
    elif keyword == "$schema" and is_root:
        if not isinstance(value, str) or not _DRAFTS.fullmatch(value):
            raise _refused(where, value, "draft 2020-12, 2019-09, 7 or 6")
    elif keyword in _ANNOTATIONS or (keyword in _OF_ROOT and is_root):
        return
    elif not keyword.startswith("x-") or keyword == "x-guidance":
        why = _WHY.get(keyword, "no grammar can be made of it here")
        raise OptionError(f"{where} is not supported: {why}; leave {keyword} out")


def _check_counts(path: str, schema: Mapping[str, Any]) -> None:
    """Of an object whose names are free, one may come twice and count once."""
    least = schema.get("minProperties", 0)
    if least > len(set(schema.get("required", ()))):
        raise OptionError(
            f"{path}.minProperties={least} is more than there are required properties, which "
            "cannot be counted on; name them in required, or leave minProperties out"
        )


def _refused(path: str, value: object, wanted: str) -> OptionError:
    return OptionError(f"{path}={value!r:.100} cannot be used; give {wanted}")


def _count(path: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST_NUMBER:
        raise _refused(path, value, "a whole number, 0 or more")


def _number(path: str, value: Any) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not -_MOST_NUMBER <= value <= _MOST_NUMBER:
        raise _refused(path, value, f"a number of at most {_MOST_NUMBER:,}")


def _multiple(path: str, value: Any) -> None:
    _number(path, value)
    digits = int("".join(map(str, Decimal(repr(value)).normalize().as_tuple().digits)))
    if value <= 0 or digits > _MOST_MULTIPLE or not 1e-9 <= value <= 1e6:
        raise _refused(path, value, f"a number above 0 of at most {_MOST_MULTIPLE:,} by its digits")


def _type(path: str, value: Any) -> None:
    names = value if isinstance(value, list) else [value]
    if not names or any(name not in _TYPES for name in names):
        raise _refused(path, value, f"one of {', '.join(_TYPES)}, or a list of them")


def _format(path: str, value: Any) -> None:
    if value not in _FORMATS:
        raise _refused(path, value, f"one of {', '.join(_FORMATS)}, or leave it out")


def _names(path: str, value: Any) -> None:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise _refused(path, value, "a list of names")


def _schemas(path: str, value: Any) -> None:
    if not isinstance(value, list) or not value:
        raise _refused(path, value, "a list of schemas, at least one")


def _named(path: str, value: Any) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise _refused(path, value, "an object of schemas")


def _items(path: str, value: Any) -> None:
    if isinstance(value, list):
        raise OptionError(f"{path} is a list, as of draft 7 and before; write it as prefixItems")


def _ref(path: str, value: Any) -> None:
    if not isinstance(value, str) or not (value in ("#", "#/") or value.startswith("#/")):
        raise _refused(path, value, "a pointer into this schema, such as '#/$defs/name'")


def _values(path: str, value: Any) -> None:
    if not isinstance(value, list) or not value:
        raise _refused(path, value, "a list of values, at least one")
    for i, each in enumerate(value):
        _constant(f"{path}[{i}]", each)


def _constant(path: str, value: Any) -> None:
    waiting = [(value, 0)]
    while waiting:
        found, depth = waiting.pop()
        if depth > MOST_DEPTH:
            raise OptionError(f"{path} nests more than {MOST_DEPTH} deep; flatten it")
        if isinstance(found, Mapping):
            waiting += [(inner, depth + 1) for inner in found.values()]
        elif isinstance(found, list):
            waiting += [(inner, depth + 1) for inner in found]
        elif isinstance(found, int | float) and not isinstance(found, bool):
            _number(path, found)


def _anything(path: str, value: Any) -> None:
    """A schema, which the walk comes to."""


_CHECKS: Final[Mapping[str, Check]] = {
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), _count),
    **dict.fromkeys(("minProperties", "maxProperties"), _count),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _number),
    **dict.fromkeys(("anyOf", "oneOf", "allOf", "prefixItems"), _schemas),
    **dict.fromkeys(("properties", "$defs", "definitions"), _named),
    **{"multipleOf": _multiple, "type": _type, "format": _format, "required": _names},
    **{"pattern": check_pattern, "enum": _values, "const": _constant, "$ref": _ref},
    **{"items": _items, "additionalProperties": _anything},
}
