"""Grammars of answers that may call tools, some of which have to be called as they say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from kept.answers.forced import with_reasoning
from kept.answers.form import AnswerForm, CallStyle
from kept.answers.harmony_grammar import strict_messages
from kept.answers.rules import Tool, call_lines, section_rule, spelled
from kept.grammar import Grammar
from kept.text import Tokenizer

_ANY: Final[dict[str, Any]] = {"type": "object"}
_TEXT: Final = "/(?s:.*)/"


def strict_calls(
    form: AnswerForm,
    tools: Sequence[Tool],
    tokenizer: Tokenizer,
    *,
    several: bool = True,
    in_reasoning: bool = False,
) -> Grammar:
    """The grammar of an answer of any text, in which a call of a tool is one: of a tool there is,
    and of one that is strict by its schema.

    Where a call has no mark in front of it (see `CallStyle`), an answer that begins with "{", or
    for GLM with a tool's name on a line and "{", is one. several, in_reasoning: as for
    `forced_calls`. Raises OptionError for the schema of a strict tool that cannot be kept to.
    """
    kept = [tool if tool.is_strict else replace(tool, parameters=_ANY) for tool in tools]
    if form.style is CallStyle.HARMONY:
        return strict_messages(form, kept, tokenizer, in_reasoning)
    lines, mark = call_lines(form, kept, tokenizer), form.opening
    unlike_reasoning = _unless_reasoning(form, tokenizer, in_reasoning)
    lines.append(f"TEXT: {_TEXT}{unlike_reasoning}")
    if form.style is CallStyle.HERMES:
        call = f'"\\n" call "\\n" {spelled("</tool_call>", tokenizer)}'
        body = _marked(call, "*" if several else "?", form, tokenizer, lines)
    elif section := section_rule(form, tokenizer, several):
        body = _marked(section, "?", form, tokenizer, lines)
    elif form.style is CallStyle.GLM:
        names = "|".join(_escaped(tool.name) for tool in kept)
        called = f"~/({names})[ \\t]*\\n\\s*\\{{(?s:.*)/"
        lines.append(f"SAID: /\\S(?s:.*)/ & {called}{unlike_reasoning}")
        body = "/\\s*/ (call | SAID)?"
    else:
        others = f"{_without(mark, tokenizer)}{unlike_reasoning}"
        lines.append(f"BARE: /\\s*([^{{\\s](?s:.*))?/{others}")
        body = "(call | BARE)" if mark is None else f"({spelled(mark, tokenizer)}? call | BARE)"
    return with_reasoning(form, body, lines, tokenizer, in_reasoning)


def _marked(call: str, times: str, form: AnswerForm, tokenizer: Tokenizer, lines: list[str]) -> str:
    """Text with calls behind a mark in it."""
    mark = form.opening
    assert mark is not None, "of this style each call has one"
    if tokenizer.is_special(mark):  # which is in no text
        lines += [f"marked: {spelled(mark, tokenizer)} {call}", f"LATER: {_TEXT}"]
        if times == "*":
            return "(TEXT | marked) (marked | LATER)*"
        return f"{_said(form, tokenizer)} marked?"
    lines += [
        f"before[suffix={json.dumps(mark)}]: TEXT",
        f"marked: before {call}",
        f"LAST: TEXT{_without(mark, tokenizer)}",
    ]
    return f"marked{times} LAST"


def _said(form: AnswerForm, tokenizer: Tokenizer) -> str:
    """Text, with marks around it that may be there and are in no text."""
    if form.response is None or not tokenizer.is_special(form.response[1]):
        return "TEXT"
    opening, closing = (spelled(mark, tokenizer) for mark in form.response)
    around = f"TEXT {closing}?"
    return f"({around})" if form.in_response else f"(TEXT | {opening} {around})"


def _without(mark: str | None, tokenizer: Tokenizer) -> str:
    """What keeps a mark out of a text that it could be spelled in."""
    if mark is None or tokenizer.is_special(mark):
        return ""
    return f" & ~/(?s:.*){_escaped(mark)}(?s:.*)/"


def _unless_reasoning(form: AnswerForm, tokenizer: Tokenizer, in_reasoning: bool) -> str:
    """What keeps a text from beginning as reasoning does, in which a mark marks nothing."""
    if form.reasoning is None or in_reasoning or tokenizer.is_special(form.reasoning[0]):
        return ""
    return f" & ~/\\s*{_escaped(form.reasoning[0])}(?s:.*)/"


def _escaped(mark: str) -> str:
    return "".join(f"\\{x}" if x in "[]|/.*+?(){}^$\\" else x for x in mark)
