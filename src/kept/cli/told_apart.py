"""What a model thinks before an answer, told apart from the answer as it is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kept.answers import Content, Part, Reasoning, form_of, parser_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kept.llm import LLM
    from kept.sampling import SamplingParams


class ToldApart:
    """The parts of one answer.

    content: what was said so far, without what was thought.
    """

    def __init__(
        self,
        llm: LLM,
        messages: Sequence[Mapping[str, Any]],
        params: SamplingParams,
        *,
        say: Callable[[str], None],
        think: Callable[[str], None],
    ) -> None:
        """messages: that it answers. say, think: take what is said and what is thought. Where
        `params` show special tokens everything is said, marks and all. Raises TemplateError."""
        self.content = ""
        self._say, self._think, self._llm = say, think, llm
        prompt = llm.render_chat(messages)
        self._form = form_of(llm.chat_template.templates.values()).behind(prompt)
        is_whole = self._form.is_plain or params.skip_special_tokens is False
        opened = self._form.opens_reasoning(prompt)
        self._parser = None if is_whole else parser_of(self._form, in_reasoning=opened)

    def marked(self, params: SamplingParams) -> SamplingParams:
        """The options with which the text shows the marks that are read here."""
        tokenizer = self._llm.tokenizer
        if self._parser is None or tokenizer is None:
            return params
        shows = any(tokenizer.is_special(mark) for mark in self._form.marks)
        return replace(params, skip_special_tokens=False) if shows else params

    def add(self, text: str) -> None:
        """Take the next piece of the text."""
        self._tell([Content(text)] if self._parser is None else self._parser.add(text))

    def finish(self) -> None:
        """Say that no more text comes."""
        if self._parser is not None:
            self._tell(self._parser.finish())

    def _tell(self, parts: Sequence[Part]) -> None:
        for part in parts:
            if isinstance(part, Reasoning):
                self._think(part.text)
            elif isinstance(part, Content):
                self.content += part.text
                self._say(part.text)
