"""Grammars of answers that have to be calls, or to begin with reasoning."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from kept.answers.form import AnswerForm, CallStyle
from kept.answers.harmony_grammar import forced_message, reasoned_message
from kept.answers.rules import Tool, call_lines, section_rule, spelled
from kept.errors import OptionError
from kept.grammar import Grammar, json_rule, regex_rule
from kept.text import Tokenizer

_SPACE: Final = r"/[ \n]{0,2}/"


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
    if form.style is CallStyle.HARMONY:
        return forced_message(form, tools, tokenizer, in_reasoning)
    lines = call_lines(form, tools, tokenizer)
    if form.style is CallStyle.HERMES:
        around = f'{spelled("<tool_call>", tokenizer)} "\\n" call "\\n" '
        lines.append(f"one: {around}{spelled('</tool_call>', tokenizer)}")
        body = 'one ("\\n" one)*' if several else "one"
    elif form.opening is not None and (section := section_rule(form, tokenizer, several)):
        body = f"{spelled(form.opening, tokenizer)} {section}"
    else:
        body = "call"
    return with_reasoning(form, body, lines, tokenizer, in_reasoning)


def reasoned(
    form: AnswerForm, grammar: Grammar, tokenizer: Tokenizer, *, in_reasoning: bool
) -> Grammar:
    """A grammar of an answer's content as one of the answer, whose reasoning is free.

    Raises OptionError for one in Lark where there is reasoning.
    """
    if form.reasoning is None and (form.response is None or grammar.kind == "lark"):
        return grammar
    if grammar.kind == "lark":
        raise OptionError(
            "grammar: one in Lark is of the whole answer, and this model's begin with reasoning; "
            "turn that off, or pass json_schema or regex"
        )
    is_regex = grammar.kind == "regex"
    body = regex_rule(grammar.text) if is_regex else json_rule(json.loads(grammar.text))
    if form.style is CallStyle.HARMONY:
        return reasoned_message(body, tokenizer, in_reasoning)
    content = in_response(form, "body", tokenizer)
    return with_reasoning(form, content, [f"body: {body}"], tokenizer, in_reasoning)


def in_response(form: AnswerForm, body: str, tokenizer: Tokenizer) -> str:
    """A body of content, with what may stand around it."""
    if form.response is None:
        return body
    opening, closing = (spelled(mark, tokenizer) for mark in form.response)
    if form.in_response:
        return f"{body} {closing}?"
    return f"({body} | {opening} {_SPACE} {body} {_SPACE} {closing})"


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
