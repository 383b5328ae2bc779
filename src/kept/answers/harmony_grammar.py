"""Grammars of answers in messages on channels; see `HarmonyParser`.

A call ends such an answer, so that there is never more than one in it. Its recipient stands behind
its channel or in front of it: models write both.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from kept.answers.form import AnswerForm
from kept.answers.harmony import CHANNEL, CONSTRAIN, END, MESSAGE, ROLE, START
from kept.answers.rules import Tool, arguments_rule, spelled
from kept.errors import OptionError
from kept.grammar import Grammar
from kept.text import Tokenizer

_FREE: Final = r"/(.|\n)*/"
_ANALYSIS: Final = '"analysis"'


def forced_message(
    form: AnswerForm, tools: Sequence[Tool], tokenizer: Tokenizer, in_reasoning: bool
) -> Grammar:
    """The grammar of an answer that calls one of some tools, behind a thought or none.

    form: one without reasoning is of an answer that begins within its content. Raises OptionError
    for a schema that cannot be kept to, and where a mark is no special token.
    """
    found = _Messages(tokenizer)
    opened = in_reasoning or form.reasoning is None
    return found.grammar(opened, f"{found.thought} call", found.calls(tools))


def strict_messages(
    form: AnswerForm, tools: Sequence[Tool], tokenizer: Tokenizer, in_reasoning: bool
) -> Grammar:
    """The grammar of an answer of any messages, in which a call is one of some tools by its schema.

    form and what is raised: as for `forced_message`.
    """
    found = _Messages(tokenizer)
    said = found.message('("analysis" | "commentary" | "final")', _FREE)
    lines = [*found.calls(tools), f"said: {said}"]
    rest = f"(said {found.next})* (said | call)"
    if in_reasoning or form.reasoning is None:
        lines += [f"start: {_FREE} ({found.next} {rest})?"]
        return Grammar("lark", "\n".join(lines))
    return found.grammar(False, rest, lines)


def reasoned_message(body: str, tokenizer: Tokenizer, in_reasoning: bool) -> Grammar:
    """The grammar of an answer whose content is of a rule's text, behind a thought or none. Raises
    OptionError where a mark is no special token."""
    found = _Messages(tokenizer)
    final = found.message(f'"final" (" "? {found.mark(CONSTRAIN)} "json")?', "body")
    return found.grammar(in_reasoning, f"{found.thought} {final}", [f"body: {body}"])


class _Messages:
    """Messages as parts of rules. next: what leads from the body of one to the header of another.
    thought: one on the channel of reasoning or none, up to the header behind it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.next = f'{self.mark(END)} {self.mark(START)} "{ROLE}"'
        self.thought = f"({self.message(_ANALYSIS, _FREE)} {self.next})?"

    def mark(self, mark: str) -> str:
        """A mark, which no text may spell: else none could be told from a body's text."""
        if not self._tokenizer.is_special(mark):
            raise OptionError(
                f"{mark} is no special token of this model's tokenizer, so that no call and no "
                'form can be asked for here; pass tool_choice "auto" and tools that are not '
                "strict, or add it to added_tokens of tokenizer.json as special"
            )
        return spelled(mark, self._tokenizer)

    def message(self, channel: str, body: str) -> str:
        """A message without its end."""
        return f"{self.mark(CHANNEL)} {channel} {self.mark(MESSAGE)} {body}"

    def calls(self, tools: Sequence[Tool]) -> list[str]:
        """The rule `call` of one of some tools, and those it is made of."""
        names = " | ".join(f"call_{i}" for i in range(len(tools)))
        channel, typed = self.mark(CHANNEL), f'{self.mark(CONSTRAIN)}? "json"'
        lines = [f"call: {names}"]
        for i, tool in enumerate(tools):
            to = f"to=functions.{tool.name}"
            behind = f"{channel} {_quoted(f'commentary {to} ')}"
            before = f'{_quoted(f" {to}")} {channel} "commentary "'
            head = f"({behind} | {before}) {typed} {self.mark(MESSAGE)}"
            lines += [f"call_{i}: {head} arguments_{i}", f"arguments_{i}: {arguments_rule(tool)}"]
        return lines

    def grammar(self, opened: bool, rest: str, lines: Sequence[str]) -> Grammar:
        """The grammar of rules. opened: the answer begins within a body."""
        start = f"{_FREE} {self.next} {rest}" if opened else rest
        return Grammar("lark", "\n".join([f"start: {start}", *lines]))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
