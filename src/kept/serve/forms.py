"""What a chat's answer has to be, and how its parts are told apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kept.answers import (
    AnswerForm,
    Parser,
    Tool,
    forced_calls,
    form_of,
    parser_of,
    reasoned,
    strict_calls,
)
from kept.errors import OptionError
from kept.grammar import Grammar, GrammarCompiler
from kept.sampling import SamplingParams
from kept.serve.asked import Asked, Chat, Prompt
from kept.serve.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kept.llm import LLM

_TAIL = 32  # tokens of a prompt in which reasoning may have been opened


@dataclass(frozen=True, slots=True)
class Shape:
    """How the texts of a prompt are read. tools: those that may be called."""

    form: AnswerForm
    tools: tuple[str, ...]
    in_reasoning: bool

    def parser(self) -> Parser:
        """A parser of one text."""
        return parser_of(self.form, self.tools, in_reasoning=self.in_reasoning)


def shape_of(llm: LLM, prompt: Prompt, tokens: Sequence[int]) -> Shape | None:
    """How the answers to a prompt are read; None: they are text and nothing else."""
    if not isinstance(prompt, Chat) or llm.tokenizer is None:
        return None
    form = form_of(llm.chat_template.templates.values())
    tail = llm.tokenizer.decode(tokens[-_TAIL:], skip_special_tokens=False)
    form = form.within_content if prompt.goes_on else form.behind(tail)
    tools = tuple(_name(tool) for tool in prompt.tools)
    if form.is_plain and not tools:
        return None
    return Shape(form, tools, form.opens_reasoning(tail))


def shaped(llm: LLM, asked: Asked, prompt: Prompt, shape: Shape | None) -> SamplingParams:
    """The options of a request with the grammar that its answer has to be of, and with the marks
    in its text that its parser reads.

    Raises Refusal, by the field of the wire, for a grammar that cannot be kept to.
    """
    params, tokenizer = asked.params, llm.tokenizer
    found = next((x for x in (params.json_schema, params.regex, params.grammar) if x), None)
    grammar = found if isinstance(found, Grammar) else None
    field = asked.grammar_field
    if tokenizer is None:
        return params
    try:
        if isinstance(prompt, Chat) and prompt.must_call:
            form = form_of(llm.chat_template.templates.values()) if shape is None else shape.form
            field, opened = "tools", shape is not None and shape.in_reasoning
            tools = [x for x in _tools(prompt) if prompt.only_tool in (None, x.name)]
            several = prompt.in_parallel and prompt.only_tool is None
            grammar = forced_calls(form, tools, tokenizer, several=several, in_reasoning=opened)
        elif grammar is None and isinstance(prompt, Chat) and prompt.strict_tools and shape:
            field, opened, several = "tools", shape.in_reasoning, prompt.in_parallel
            grammar = strict_calls(
                shape.form, _tools(prompt), tokenizer, several=several, in_reasoning=opened
            )
        elif grammar is not None and shape is not None:
            opened = shape.in_reasoning
            grammar = reasoned(shape.form, grammar, tokenizer, in_reasoning=opened)
        if grammar is not None:
            GrammarCompiler.of(tokenizer).compile(grammar)
    except OptionError as error:
        raise Refusal(str(error), 400, "invalid_value", field) from error
    if grammar is None and shape is None:
        return params
    marks = () if shape is None else shape.form.marks
    shows = any(tokenizer.is_special(mark) for mark in marks)
    return replace(
        params,
        json_schema=None,
        regex=None,
        grammar=grammar,
        skip_special_tokens=False if shows else params.skip_special_tokens,
    )


def _function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    function = tool.get("function")
    return function if isinstance(function, Mapping) else tool


def _name(tool: Mapping[str, Any]) -> str:
    return str(_function(tool).get("name", ""))


def _tools(prompt: Chat) -> list[Tool]:
    usual = (f"tools.{i}.function.parameters" for i in range(len(prompt.tools)))
    fields = prompt.tool_fields or usual
    return [
        Tool(
            _name(tool),
            _function(tool).get("parameters"),
            field,
            _name(tool) in prompt.strict_tools,
        )
        for tool, field in zip(prompt.tools, fields, strict=True)
    ]
