"""Rules of grammars for calls: their names, their arguments, and the marks around them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kept.answers.deepseek import CALL_BEGIN, CALL_END, CALLS_END, FENCE, SEPARATOR
from kept.answers.form import AnswerForm, CallStyle
from kept.errors import OptionError
from kept.grammar import Grammar, json_rule
from kept.text import Tokenizer

_NAME: Final = re.compile(r"[^\s<{`]{1,256}")
# Of these names are no JSON, and arguments are:
_NAMED: Final = (CallStyle.DEEPSEEK, CallStyle.DEEPSEEK_V31, CallStyle.GLM)
_LISTED: Final = {  # and what ends the list
    CallStyle.PHI: "<|/tool_call|>",
    CallStyle.GRANITE: None,
    CallStyle.COMMAND: "<|END_ACTION|>",
}
_SPACE: Final = r"/[ \n]{0,6}/"
_ID: Final = {"tool_call_id": {"type": "string", "pattern": "^[0-9]{1,4}$"}}  # of Command's
_NO_ARGUMENTS: Final[Mapping[str, Any]] = {"type": "object", "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class Tool:
    """A function: its name, the JSON schema of its arguments, None: it takes none, and what errors
    call that. is_strict: whether that is kept to where the model is free to call it or not."""

    name: str
    parameters: Mapping[str, Any] | None = None
    label: str = "tools"
    is_strict: bool = False


def call_lines(form: AnswerForm, tools: Sequence[Tool], tokenizer: Tokenizer) -> list[str]:
    """The rule `call` of one of some tools, and those it is made of."""
    lines = [f"call: {' | '.join(f'call_{i}' for i in range(len(tools)))}"]
    for i, tool in enumerate(tools):
        if form.style not in _NAMED:
            lines.append(f"call_{i}: {_call_rule(tool, form.style)}")
            continue
        before, behind = (
            " ".join(_part(text, form, tokenizer) for text in texts)
            for texts in _around(form.style, tool.name)
        )
        lines.append(f"call_{i}: {before} arguments_{i} {behind}")
        lines.append(f"arguments_{i}: {arguments_rule(tool)}")
    return lines


def _around(style: CallStyle, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What stands before and behind the arguments of a call of that name."""
    if style is CallStyle.GLM:
        return (f"{name}\n",), ()
    if style is CallStyle.DEEPSEEK_V31:
        return (CALL_BEGIN, name, SEPARATOR), (CALL_END,)
    named = f"{name}\n{FENCE}json\n"
    return (CALL_BEGIN, "function", SEPARATOR, named), (f"\n{FENCE}", CALL_END)


def _part(text: str, form: AnswerForm, tokenizer: Tokenizer) -> str:
    if text in form.marks:
        return spelled(text, tokenizer)
    return json.dumps(text, ensure_ascii=False)


def section_rule(form: AnswerForm, tokenizer: Tokenizer, several: bool) -> str | None:
    """What follows the mark of a section of calls, of the rule `call`; None: this style has none.

    several: more than one may be in it.
    """
    if form.style is CallStyle.MISTRAL:
        calls = 'call (", " call)*' if several else "call"
        return f'"[" {calls} "]"'
    if form.style in _NAMED and form.style is not CallStyle.GLM:
        between = '"\\n" ' if form.style is CallStyle.DEEPSEEK else ""
        more = f" ({between}call)*" if several else ""
        return f"call{more} {spelled(CALLS_END, tokenizer)}"
    if form.style in _LISTED:
        closing = _LISTED[form.style]
        calls = f'call ("," {_SPACE} call)*' if several else "call"
        end = "" if closing is None else spelled(closing, tokenizer)
        return f'{_SPACE} "[" {_SPACE} {calls} {_SPACE} "]" {end}'
    return None


def arguments_rule(tool: Tool) -> str:
    """The arguments of a call of a tool, an object by itself, where its name is no JSON. Raises
    OptionError for a schema that cannot be kept to, or is of something else, and for a name that
    could not be told from what is around it."""
    if not _NAME.fullmatch(tool.name):
        raise OptionError(
            f"the tool {tool.name!r} cannot be called by this model, whose calls have names of at "
            'most 256 characters without spaces, "<", "{" and "`"; give it another name'
        )
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


def _call_rule(tool: Tool, style: CallStyle) -> str:
    is_command = style is CallStyle.COMMAND
    key = "parameters" if is_command or style is CallStyle.LLAMA else "arguments"
    name = "tool_name" if is_command else "name"
    number: dict[str, Any] = _ID if is_command else {}
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
        "properties": {**number, name: {"const": tool.name}, key: parameters},
        "required": [*number, name, key],
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
