"""One value for what a text may be, whichever way it was asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from kept.errors import OptionError
from kept.grammar.schema import check_schema

MOST_BYTES: Final = 128 << 10  # of a schema, an expression or a grammar

Kind = Literal["json_schema", "regex", "lark"]

# Python's `json` and many readers of it take the last of equal keys, and "\u0061" is "a": a name
# that a schema knows must not come in another spelling, past what the schema says of it.
_ESCAPES: Final = 'nrbtf\\"'
# Between the tokens of JSON: nothing, a space, or a new line and what indents it. A run without
# end would be allowed for ever, and small models write it.
_SPACE: Final = r"(\x20|\r?\n(\x20{0,40}|\t{0,16}))?"
_JSON_OPTIONS: Final = {"json_allowed_escapes": _ESCAPES, "whitespace_pattern": _SPACE}
# Forced text would be tokenized within a mask, however long it is: b{1000} of a{1000}. Which of its
# tokenizations comes is the model's to say.
_OPTIONS: Final = '%llguidance {"no_forcing": true}\n'
_EMBEDDED: Final = re.compile(r"%json\s*")


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the whole text of an answer has to be; made by one of its three ways.

    kind: how `text` says it. text: a JSON schema as JSON, a regular expression, or a grammar in
    llguidance's dialect of Lark. Two of the same kind and text are equal.
    """

    kind: Kind
    text: str

    @classmethod
    def json_schema(cls, schema: object, label: str = "json_schema") -> Grammar:
        """JSON that a schema holds for valid: a dict, True (any JSON), or such a one as text.

        Draft 2020-12, as far as every keyword of it can be kept to; `OptionError` names the path of
        one that cannot. {"type": "object"} is any object. label: what errors call it.
        """
        read = _parse(schema, label) if isinstance(schema, str) else schema
        try:
            text = json.dumps(read, ensure_ascii=False, allow_nan=False)
            text.encode()
        except RecursionError:
            raise OptionError(f"{label} nests too deeply; flatten it") from None
        except (TypeError, ValueError) as error:
            raise OptionError(f"{label} is no JSON: {error}; pass a dict of JSON values") from error
        _check_size(label, text)
        check_schema(read, label)
        return cls("json_schema", text)

    @classmethod
    def regex(cls, pattern: str, label: str = "regex") -> Grammar:
        """Text that a regular expression matches from its first to its last character.

        Of Rust's regex syntax, without anchors, look-around and back-references.
        """
        _check_text(label, pattern, "a regular expression")
        return cls("regex", pattern)

    @classmethod
    def lark(cls, grammar: str, label: str = "grammar") -> Grammar:
        """Text of the rule `start` of a context-free grammar, in llguidance's dialect of Lark.

        A schema within (`%json {...}`) is checked as `json_schema` is.
        """
        _check_text(label, grammar, "a grammar in Lark")
        for found in _EMBEDDED.finditer(grammar):
            try:
                schema, _ = json.JSONDecoder().raw_decode(grammar, found.end())
            except (ValueError, RecursionError) as error:
                raise OptionError(f"{label} has a %json that is no JSON: {error}") from None
            check_schema(schema, f"{label}'s %json")
        return cls("lark", grammar)

    @classmethod
    def choice(cls, choices: Sequence[str], label: str = "choice") -> Grammar:
        """Text that is one of some strings."""
        if not choices:
            raise OptionError(f"{label} is empty, and would allow no text at all; pass strings")
        for choice in choices:
            _check_text(label, choice, "strings")
        spelled = (json.dumps(choice, ensure_ascii=False) for choice in choices)
        return cls("lark", f"start: {' | '.join(spelled)}")

    def source(self) -> str:
        """The grammar as llguidance reads it."""
        if self.kind == "lark":
            return f"{self.text}\n{_OPTIONS}" if "%llguidance" not in self.text else self.text
        is_regex = self.kind == "regex"
        rule = regex_rule(self.text) if is_regex else json_rule(json.loads(self.text))
        return f"start: {rule}\n{_OPTIONS}"


def json_rule(schema: Any) -> str:
    """The JSON of a schema, checked before, as a part of a Lark rule."""
    whole = {} if schema is True else schema
    return "%json " + json.dumps({**whole, "x-guidance": _JSON_OPTIONS}, ensure_ascii=False)


def regex_rule(pattern: str) -> str:
    """The text of a regular expression as a part of a Lark rule."""
    import llguidance

    return f"/{llguidance.regex_to_lark(pattern)}/"


def read_json_schema(label: str, value: object) -> Grammar:
    """An option's value as a grammar of JSON."""
    if isinstance(value, Grammar):
        return value
    if not isinstance(value, str | Mapping | bool):
        kind = type(value).__name__
        raise OptionError(f"{label}={value!r:.100} is of type {kind}; pass a dict or JSON as text")
    return Grammar.json_schema(dict(value) if isinstance(value, Mapping) else value, label)


def read_regex(label: str, value: object) -> Grammar:
    """An option's value as a grammar of a regular expression."""
    return value if isinstance(value, Grammar) else Grammar.regex(_text(label, value), label)


def read_grammar(label: str, value: object) -> Grammar:
    """An option's value as a grammar: one, or text in Lark."""
    return value if isinstance(value, Grammar) else Grammar.lark(_text(label, value), label)


def _text(label: str, value: object) -> str:
    if isinstance(value, str):
        return value
    raise OptionError(f"{label}={value!r:.100} is of type {type(value).__name__}; pass a string")


def _parse(text: str, label: str) -> Any:
    _check_size(label, text)
    try:
        return json.loads(text)
    except RecursionError:
        raise OptionError(f"{label} nests too deeply; flatten it") from None
    except ValueError as error:
        raise OptionError(f"{label} is no JSON: {error}; pass a JSON schema") from error


def _check_text(label: str, text: str, wanted: str) -> None:
    _text(label, text)
    if not text.strip():
        raise OptionError(f"{label} is empty, and would allow no text at all; pass {wanted}")
    _check_size(label, text)


def _check_size(label: str, text: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise OptionError(f"{label} holds half of a surrogate pair; pass valid Unicode") from None
    if size > MOST_BYTES:
        raise OptionError(
            f"{label} has {size:,} bytes, and at most {MOST_BYTES:,} are read; make it smaller"
        )
