"""Schemas that cannot be kept to in full are refused by the path of what is at fault."""

from __future__ import annotations

import re
from typing import Any

import pytest

from kept.errors import OptionError
from kept.grammar import Grammar

DEEP: dict[str, Any] = {}
for _ in range(60):
    DEEP = {"items": DEEP}
OBJECT: dict[str, Any] = {"type": "object"}
CIRCLE: dict[str, Any] = {}
CIRCLE["items"] = CIRCLE


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"patternProperties": {"^a": {}}}, r"json_schema\.patternProperties .*in part"),
        ({"properties": {"a": {"not": {}}}}, r"json_schema\.properties\.a\.not "),
        ({"items": {"uniqueItems": True}}, r"json_schema\.items\.uniqueItems "),
        ({"anyOf": [{}, {"if": {}}]}, r"json_schema\.anyOf\[1\]\.if "),
        ({"$defs": {"x": {"contains": {}}}}, r"json_schema\.\$defs\.x\.contains "),
        ({"requried": ["a"]}, r"json_schema\.requried "),
        ({"nullable": True}, r"json_schema\.nullable .*null"),
        ({"x-guidance": {"lenient": True}}, r"json_schema\.x-guidance "),
        ({"items": [{}]}, r"json_schema\.items .*prefixItems"),
        ({"format": "regex"}, r"json_schema\.format="),
        ({"type": "any"}, r"json_schema\.type="),
        ({"type": []}, r"json_schema\.type="),
        ({"exclusiveMinimum": True}, r"json_schema\.exclusiveMinimum="),
        ({"const": 2**64}, r"json_schema\.const="),
        ({"minimum": -(10**400)}, r"json_schema\.minimum="),  # more than a float holds
        ({"enum": [10**400]}, r"json_schema\.enum\[0\]="),
        ({"enum": [[{"a": 1e300}]]}, r"json_schema\.enum\[0\]="),
        ({"minLength": 1.0}, r"json_schema\.minLength="),
        ({"multipleOf": 99991}, r"json_schema\.multipleOf="),
        ({"multipleOf": 0}, r"json_schema\.multipleOf="),
        ({"minProperties": 2, "required": ["a"]}, r"json_schema\.minProperties="),
        ({"$ref": "#/$defs/x"}, r"json_schema\.\$ref="),
        ({"$ref": "#/default", "default": {}}, r"json_schema\.\$ref="),
        ({"$ref": "http://elsewhere/x"}, r"json_schema\.\$ref="),
        ({"$schema": "http://json-schema.org/draft-04/schema#"}, r"json_schema\.\$schema="),
        ({"pattern": "(?i)a"}, r"json_schema\.pattern=.*\(\?i\)"),
        ({"pattern": "(?=a)"}, r"json_schema\.pattern="),
        ({"pattern": "[a&&b]"}, r"json_schema\.pattern="),
        ({"pattern": "[[a]"}, r"json_schema\.pattern="),
        ({"pattern": "[]"}, r"json_schema\.pattern="),
        ({"pattern": "a\\b"}, r"json_schema\.pattern="),
        ({"pattern": "a\\"}, r"json_schema\.pattern="),
        ({"properties": {"a": 3}}, r"json_schema\.properties\.a="),
        ({"anyOf": []}, r"json_schema\.anyOf="),
        ({"required": "a"}, r"json_schema\.required="),
        (False, "json_schema is false"),
        ([], "json_schema=|json_schema is no JSON"),
        (DEEP, "json_schema.*deep"),
        (CIRCLE, "json_schema"),
        ({"enum": [float("nan")]}, "json_schema is no JSON"),
        ({"enum": ["\ud800"]}, "json_schema"),
        ({"properties": {f"p{i}": {} for i in range(1001)}}, "more than 1,000"),
        ({"enum": ["x" * 200_000]}, "bytes"),
        ('{"type": ', "json_schema is no JSON"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_to_is_refused_by_its_path(schema: Any, path: str) -> None:
    with pytest.raises(OptionError, match=path):
        Grammar.json_schema(schema)


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"$ref": "#"}, "json_schema"),
        ({"allOf": [{"type": "object"}, {"$ref": "#"}]}, "json_schema"),
        ({"oneOf": [{"$ref": "#/"}, {"$ref": "#/oneOf/0"}]}, "json_schema"),
        ({**OBJECT, "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "json_schema"),
        ({**OBJECT, "additionalProperties": {"$ref": "#"}, "required": ["a"]}, "json_schema"),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "json_schema"),
        ({"type": ["array"], "prefixItems": [{}, {"$ref": "#"}], "minItems": 2}, "json_schema"),
        # Also where it need not be come to: a text might.
        ({"properties": {"a/b": {"$ref": "#/properties/a~1b"}}}, "json_schema.properties.a/b"),
        (
            {
                "items": {"$ref": "#/$defs/x"},
                "$defs": {"x": {"$ref": "#/$defs/y"}, "y": {"anyOf": [{"$ref": "#/$defs/x"}]}},
            },
            "json_schema.$defs.x",
        ),
    ],
)  # fmt: skip
def test_what_has_to_hold_itself_is_refused(schema: Any, path: str) -> None:
    with pytest.raises(OptionError, match=rf"^{re.escape(path)} has to hold itself"):
        Grammar.json_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {**OBJECT, "properties": {"a": {"$ref": "#"}}},
        {"type": ["object", "null"], "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "array", "items": {"$ref": "#"}, "maxItems": 3},
        {"type": "array", "prefixItems": [{}], "items": {"$ref": "#"}, "minItems": 1},
        {"anyOf": [{"$ref": "#"}, {"type": "integer"}]},
        {**OBJECT, "properties": {"a": {"$ref": "#"}, "b": {}}, "required": ["b", "c"]},
        {**OBJECT, "properties": {"a": {"$ref": "#"}}, "required": ["a"], "const": {"a": {}}},
    ],
)
def test_what_may_hold_itself_passes(schema: Any) -> None:
    Grammar.json_schema(schema)


def test_schemas_that_end_one_after_the_other_are_told_in_time() -> None:
    chain = {f"d{i}": {"$ref": f"#/$defs/d{(i * 7 + 1) % 900}"} for i in range(900)}
    with pytest.raises(OptionError, match=r"json_schema\.\$defs\.d\d+ has to hold itself"):
        Grammar.json_schema({"$defs": chain})


def test_annotations_and_whole_schemas_pass() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "http://x/y",
        "title": "T",
        "x-order": 3,
        "type": "object",
        "properties": {"a/b": {"type": ["string", "null"]}, "t": {"$ref": "#/$defs/t"}},
        "additionalProperties": {"$ref": "#/properties/a~1b"},
        "$defs": {"t": {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/t"}}, True]}},
    }
    made = Grammar.json_schema(schema)
    assert made == Grammar.json_schema(made.text)
    assert hash(made) == hash(Grammar.json_schema(dict(schema)))


def test_schemas_within_lark_are_checked() -> None:
    Grammar.lark('start: "x" %json {"type": "null"}')
    with pytest.raises(OptionError, match=r"grammar's %json\.not "):
        Grammar.lark('start: %json {"not": {}}')
    with pytest.raises(OptionError, match="%json that is no JSON"):
        Grammar.lark("start: %json {")
