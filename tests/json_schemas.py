"""Random JSON schemas over every keyword that is supported, of texts of bounded length."""

from __future__ import annotations

import random
from typing import Any

NAMES = ("a", "name", "value", "items", "é", "two words", 'q"', "back\\slash")
VALUES: tuple[Any, ...] = (1, 2.5, "a", "é\n", "b", None, False, True, [1, 2], {"k": []})
FORMATS = ("date", "ipv4", "uuid")  # the others may have any number of digits
PATTERNS = ("^[a-z]{1,6}$", "^(foo|bar)$", "^[0-9]{2,4}$", "^x.?$", "^\\w{3}$", "^[^a]{2,5}$")


def schema(draw: random.Random, depth: int = 0) -> dict[str, Any]:
    """One schema, whose texts have some hundred characters at most."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const", "ref"]
    if depth < 3:
        kinds += ["object", "object", "object", "array", "array", "anyOf", "allOf", "oneOf"]
    kind = draw.choice(["object", "array"] if not depth else kinds)
    made: dict[str, Any] = _MAKERS.get(kind, _plain(kind))(draw, depth)
    if draw.random() < 0.1:
        made["description"] = "of no effect"
    return made


def _plain(kind: str) -> Any:
    return lambda draw, depth: {"type": kind}


def _string(draw: random.Random, depth: int) -> dict[str, Any]:
    form = draw.random()
    if form < 0.3:
        return {"type": "string", "pattern": draw.choice(PATTERNS)}
    if form < 0.5:
        return {"type": "string", "format": draw.choice(FORMATS)}
    least = draw.randint(0, 4)
    return {"type": "string", "minLength": least, "maxLength": least + draw.randint(0, 12)}


def _integer(draw: random.Random, depth: int) -> dict[str, Any]:
    low = draw.randint(-300, 300)
    made: dict[str, Any] = {"type": "integer", "minimum": low, "maximum": low + 500}
    if draw.random() < 0.3:
        made["multipleOf"] = draw.choice((2, 3, 5, 10))
    if draw.random() < 0.3:
        made["exclusiveMinimum"] = made.pop("minimum")
    return made


def _number(draw: random.Random, depth: int) -> dict[str, Any]:
    if draw.random() < 0.5:
        low = draw.choice((-3, 0, 7))
        return {"type": "number", "minimum": low, "maximum": low + 9, "multipleOf": 0.25}
    return {"type": ["integer", "null"], "minimum": 0, "maximum": 99}


def _object(draw: random.Random, depth: int) -> dict[str, Any]:
    names = draw.sample(NAMES, draw.randint(1, 4))
    made: dict[str, Any] = {
        "type": "object",
        "properties": {name: schema(draw, depth + 1) for name in names},
        "required": draw.sample(names, draw.randint(0, len(names))),
        "additionalProperties": False,
    }
    if draw.random() < 0.15:
        made["required"] = names
        made["minProperties"] = made["maxProperties"] = len(names)
    return made


def _array(draw: random.Random, depth: int) -> dict[str, Any]:
    least = draw.randint(0, 2)
    made = {"type": "array", "items": schema(draw, depth + 1)}
    if draw.random() < 0.25:
        made["prefixItems"] = [schema(draw, depth + 1)]
    return {**made, "minItems": least, "maxItems": least + draw.randint(0, 2)}


def _one_of(draw: random.Random, depth: int) -> dict[str, Any]:
    if draw.random() < 0.5:
        return {"oneOf": [{"type": "null"}, _string(draw, depth)]}
    kinds = [
        {**made, "properties": {**made["properties"], "kind": {"const": f"k{i}"}}}
        for i, made in enumerate((_object(draw, depth + 1), _object(draw, depth + 1)))
    ]
    return {
        "oneOf": [
            {
                **made,
                "required": [*made["required"], "kind"],
                **({"minProperties": 1, "maxProperties": 9} if "minProperties" in made else {}),
            }
            for made in kinds
        ]
    }


def _ref(draw: random.Random, depth: int) -> dict[str, Any]:
    return {"$ref": "#/$defs/leaf"}


_MAKERS = {
    "string": _string,
    "integer": _integer,
    "number": _number,
    "object": _object,
    "array": _array,
    "oneOf": _one_of,
    "ref": _ref,
    "enum": lambda draw, depth: {"enum": draw.sample(VALUES, draw.randint(1, 4))},
    "const": lambda draw, depth: {"const": draw.choice(VALUES)},
    "anyOf": lambda draw, depth: {"anyOf": [schema(draw, depth + 1) for _ in range(2)]},
    "allOf": lambda draw, depth: {"allOf": [_integer(draw, depth), {"maximum": 400}]},
}


def whole_schema(seed: int) -> dict[str, Any]:
    """The schema of a seed, with the definition that others refer to."""
    draw = random.Random(seed)
    made = schema(draw)
    leaf = {"anyOf": [{"type": "boolean"}, {"type": "array", "maxItems": 1, "items": False}]}
    return {**made, "$defs": {"leaf": leaf}}
