"""Rules of grammars for calls: their names, their arguments, and the marks around them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kept.answers.form import AnswerForm, CallStyle
from kept.errors import OptionError
from kept.grammar import Grammar, json_rule
from kept.text import Tokenizer

_NO_ARGUMENTS: Final[Mapping[str, Any]] = {"type": "object", "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class Tool:
    """A function: its name, the JSON schema of its arguments, None: it takes none, and what errors
    call that. is_strict: whether that is kept to where the model is free to call it or not."""

    name: str
    parameters: Mapping[str, Any] | None = None
    label: str = "tools"
    is_strict: bool = False


def call_lines(form: AnswerForm, tools: Sequence[Tool]) -> list[str]:
    """The rule `call` of one of some tools, and those it is made of."""
    key = "parameters" if form.style is CallStyle.LLAMA else "arguments"
    rules = [_call_rule(tool, key) for tool in tools]
    names = " | ".join(f"call_{i}" for i in range(len(rules)))
    return [f"call: {names}", *(f"call_{i}: {rule}" for i, rule in enumerate(rules))]


def arguments_rule(tool: Tool) -> str:
    """The arguments of a call of a tool, an object by itself. Raises OptionError for a schema that
    cannot be kept to, or is of something else."""
    parameters = _parameters(tool)
    kind = parameters.setdefault("type", "object")
    if kind != "object":
        raise OptionError(
            f"{tool.label}.type is {kind!r}, and what a function is given is an object; "
            'make it "object"'
        )
    return json_rule(parameters)


def _parameters(tool: Tool) -> dict[str, Any]:
    parameters = dict(_NO_ARGUMENTS if tool.parameters is None else tool.parameters)
    Grammar.json_schema(parameters, tool.label)  # its check, under the name of what is at fault
    return parameters


def _call_rule(tool: Tool, key: str) -> str:
    parameters = _parameters(tool)
    definitions: dict[str, Any] = {
        name: parameters.pop(name) for name in _OF_ROOT if name in parameters
    }
    if not _keeps_its_place(parameters, definitions):
        raise OptionError(
            f"{tool.label} refers to its own root, which lies deeper in a call; give what it means "
            "a name in $defs"
        )
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"name": {"const": tool.name}, key: parameters},
        "required": ["name", key],
        "additionalProperties": False,
        **definitions,
    }
    return json_rule(schema)


_OF_ROOT: Final = ("$schema", "$id", "$defs", "definitions")


def _keeps_its_place(*schemas: Any) -> bool:
    """Whether every reference is to a definition, which stays where it is."""
    waiting = list(schemas)
    while waiting:
        found = waiting.pop()
        if isinstance(found, Mapping):
            ref = found.get("$ref")
            if isinstance(ref, str) and not ref.startswith(("#/$defs/", "#/definitions/")):
                return False
            waiting += found.values()
        elif isinstance(found, list):
            waiting += found
    return True


def spelled(mark: str, tokenizer: Tokenizer) -> str:
    """A mark as a part of a rule: the one token, where no text spells it."""
    if tokenizer.is_special(mark):
        return f"<[{tokenizer.backend.token_to_id(mark)}]>"
    return json.dumps(mark)
