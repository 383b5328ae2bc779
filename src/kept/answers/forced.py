"""Grammars of answers that have to be calls, or to begin with reasoning."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kept.answers.form import AnswerForm, CallStyle
from kept.errors import OptionError
from kept.grammar import Grammar, json_rule, regex_rule
from kept.text import Tokenizer

_SPACE: Final = r"/[ \n]{0,2}/"
_NO_ARGUMENTS: Final[Mapping[str, Any]] = {"type": "object", "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class Tool:
    """A function: its name, the JSON schema of its arguments, None: it takes none, and what errors
    call that. is_strict: whether that is kept to where the model is free to call it or not."""

    name: str
    parameters: Mapping[str, Any] | None = None
    label: str = "tools"
    is_strict: bool = False


def forced_calls(
    form: AnswerForm,
    tools: Sequence[Tool],
    tokenizer: Tokenizer,
    *,
    several: bool = True,
    in_reasoning: bool = False,
) -> Grammar:
    """The grammar of an answer that calls one of some tools, or several where that is wanted.

    in_reasoning: as for `AnswerParser`. Raises OptionError for a schema that cannot be kept to.
    """
    if not tools:
        raise OptionError("a call is asked for, and there is no tool to be called; give tools")
    lines = call_lines(form, tools)
    if form.style is CallStyle.HERMES:
        around = f'{spelled("<tool_call>", tokenizer)} "\\n" call "\\n" '
        lines.append(f"one: {around}{spelled('</tool_call>', tokenizer)}")
        body = 'one ("\\n" one)*' if several else "one"
    elif form.style is CallStyle.MISTRAL:
        calls = 'call (", " call)*' if several else "call"
        body = f'{spelled("[TOOL_CALLS]", tokenizer)} "[" {calls} "]"'
    else:
        body = "call"
    return with_reasoning(form, body, lines, tokenizer, in_reasoning)


def call_lines(form: AnswerForm, tools: Sequence[Tool]) -> list[str]:
    """The rule `call` of one of some tools, and those it is made of."""
    key = "parameters" if form.style is CallStyle.LLAMA else "arguments"
    rules = [_call_rule(tool, key) for tool in tools]
    names = " | ".join(f"call_{i}" for i in range(len(rules)))
    return [f"call: {names}", *(f"call_{i}: {rule}" for i, rule in enumerate(rules))]


def reasoned(
    form: AnswerForm, grammar: Grammar, tokenizer: Tokenizer, *, in_reasoning: bool
) -> Grammar:
    """A grammar of an answer's content as one of the answer, whose reasoning is free.

    Raises OptionError for one in Lark where there is reasoning.
    """
    if form.reasoning is None:
        return grammar
    if grammar.kind == "lark":
        raise OptionError(
            "grammar: one in Lark is of the whole answer, and this model's begin with reasoning; "
            "turn that off, or pass json_schema or regex"
        )
    is_regex = grammar.kind == "regex"
    body = regex_rule(grammar.text) if is_regex else json_rule(json.loads(grammar.text))
    return with_reasoning(form, "body", [f"body: {body}"], tokenizer, in_reasoning)


def with_reasoning(
    form: AnswerForm, body: str, lines: list[str], tokenizer: Tokenizer, in_reasoning: bool
) -> Grammar:
    """The grammar of an answer of a body, behind reasoning where the model reasons. lines: the
    rules that the body is of."""
    start = body
    if form.reasoning is not None:
        opening, closing = form.reasoning
        is_special = tokenizer.is_special(closing)
        end = spelled(closing, tokenizer)
        free = f"/(.|\\n)*/ {end}" if is_special else "thought"
        if not is_special:
            lines = [*lines, f"thought[suffix={json.dumps(closing)}]: /(.|\\n)*/"]
        if in_reasoning:
            start = f"{free} {_SPACE} {body}"
        else:
            start = f"({spelled(opening, tokenizer)} {free} {_SPACE})? {body}"
    return Grammar("lark", "\n".join([f"start: {start}", *lines]))


def _call_rule(tool: Tool, key: str) -> str:
    given = _NO_ARGUMENTS if tool.parameters is None else tool.parameters
    parameters: dict[str, Any] = dict(given)
    Grammar.json_schema(parameters, tool.label)  # its check, under the name of what is at fault
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
