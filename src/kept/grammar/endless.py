"""Schemas that no JSON satisfies, as it would have to hold itself without an end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any


def endless(schemas: Mapping[str, Any], refs: Mapping[str, str]) -> str | None:
    """The pointer to a schema that refers to itself wherever it has to be gone on with; None: none.

    schemas: by their pointers, checked one by one. refs: what pointers with `$ref` point at. Takes
    what a schema says beside other keywords for possible, so that what is named never ends.
    """
    needs = {pointer: _needs(pointer, schema, refs) for pointer, schema in schemas.items()}
    needed_by: dict[str, list[str]] = {}
    for pointer, every in needs.items():
        for needed in {needed for any_of in every for needed in any_of}:
            needed_by.setdefault(needed, []).append(pointer)
    ending: set[str] = set()
    waiting = list(needs)
    while waiting:
        pointer = waiting.pop()
        if pointer not in ending and all(not ending.isdisjoint(a) for a in needs[pointer]):
            ending.add(pointer)
            waiting += needed_by.get(pointer, ())
    at = next((pointer for pointer in needs if pointer not in ending), None)
    passed: set[str] = set()
    while at is not None and at not in passed:
        passed.add(at)
        at = next(a for a in needs[at] if ending.isdisjoint(a))[0]
    return at


def _needs(pointer: str, schema: Any, refs: Mapping[str, str]) -> list[list[str]]:
    """The schemas that have to end for this one to end: of each list, one."""
    if not isinstance(schema, Mapping) or "enum" in schema or "const" in schema:
        return []
    every = [[refs[pointer]]] if pointer in refs else []
    every += [[f"{pointer}/allOf/{i}"] for i in range(len(schema.get("allOf", ())))]
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            every.append([f"{pointer}/{keyword}/{i}" for i in range(len(schema[keyword]))])
    kind = schema.get("type")
    if kind in ("object", ["object"]):
        every += [[inner] for inner in _members(pointer, schema)]
    elif kind in ("array", ["array"]):
        every += [[inner] for inner in _items(pointer, schema)]
    return every


def _members(pointer: str, schema: Mapping[str, Any]) -> Iterator[str]:
    for name in schema.get("required", ()):
        if name in schema.get("properties", {}):
            yield f"{pointer}/properties/{escaped(name)}"
        elif "additionalProperties" in schema:
            yield f"{pointer}/additionalProperties"


def _items(pointer: str, schema: Mapping[str, Any]) -> Iterator[str]:
    least = schema.get("minItems", 0)
    first = schema.get("prefixItems", ())
    yield from (f"{pointer}/prefixItems/{i}" for i in islice(range(len(first)), least))
    if least > len(first) and "items" in schema:
        yield f"{pointer}/items"


def escaped(name: str) -> str:
    """A name in a pointer."""
    return name.replace("~", "~0").replace("/", "~1")
