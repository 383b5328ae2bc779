"""The parser of a form's answers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from kept.answers.form import AnswerForm, CallStyle
from kept.answers.harmony import HarmonyParser
from kept.answers.parser import AnswerParser
from kept.answers.parts import Part


class Parser(Protocol):
    """What tells the parts of one answer apart, as its text comes."""

    num_calls: int

    @property
    def reasoned(self) -> int:
        """How many characters of the text so far are its reasoning, and what is before it."""

    def add(self, text: str) -> list[Part]:
        """Take the next piece of text, give what is certain now."""

    def finish(self) -> list[Part]:
        """Say that no more text comes, and give the rest."""


def parser_of(form: AnswerForm, tools: Collection[str] = (), *, in_reasoning: bool) -> Parser:
    """A parser of one answer; tools, in_reasoning: as for `AnswerParser`."""
    kind = HarmonyParser if form.style is CallStyle.HARMONY else AnswerParser
    return kind(form, tools, in_reasoning=in_reasoning)
